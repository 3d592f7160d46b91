"""The programs whose numbers papers print, and what sets their numbers apart."""

from __future__ import annotations

from dataclasses import dataclass

from jboost.engine.errors import BadInputError


@dataclass(frozen=True)
class Protocol:
    """What an evaluation follows.

    Two parts concern Inception alone: how images get to its size, and float16 distances. With another extractor a protocol
    only sets the parts of the Inception Score.

    Attributes:
        name: value of ``--protocol``.
        title: the program that it follows.
        tensorflow: Inception's input is resized as by TensorFlow 1 and scaled by (x - 128) / 128; else by torch's bilinear
            ``interpolate`` and 2 x / 255 - 1.
        part: images in a part of the Inception Score, in the order of the set; None: ten parts of the shuffled set.
        half: precision and recall compare float16 distances between Inception's features.
        metrics: keys of the metrics that the program has; the others are jboost's own under every protocol.
        remark: what a reader must know to get the program's number of a metric, by key.
    """

    name: str
    title: str
    tensorflow: bool
    part: int | None
    half: bool
    metrics: frozenset[str]
    remark: tuple[tuple[str, str], ...] = ()

    def notes(self, wanted: list[str], titles: dict[str, str]) -> list[str]:
        """What to say of the metrics `wanted` when Inception is the extractor; `titles` are theirs."""
        foreign = [titles[key] for key in wanted if key not in self.metrics]
        notes = [text for key, text in self.remark if key in wanted]
        if foreign:
            verb = "is" if len(foreign) == 1 else "are"
            notes.append(
                f"{', '.join(foreign)} {verb} not among the metrics of {self.title}: jboost's own (docs/eval.md)"
            )
        return notes


_VGG = "precision and recall: of torch-fidelity 0.4 with the feature extractor inception-v3-compat; its default there is vgg16"

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            "openai",
            "OpenAI's evaluator (guided-diffusion)",
            tensorflow=True,
            part=5000,
            half=True,
            metrics=frozenset({"fid", "sfid", "is", "precision", "recall"}),
        ),
        Protocol(
            "torch-fidelity",
            "torch-fidelity",
            tensorflow=True,
            part=None,
            half=False,
            metrics=frozenset({"fid", "kid", "is", "precision", "recall"}),
            remark=(("precision", _VGG),),
        ),
        Protocol(
            "pytorch-fid",
            "pytorch-fid",
            tensorflow=False,
            part=None,
            half=False,
            metrics=frozenset({"fid"}),
        ),
    )
}
#: Features that jboost saved before files named their protocol were made with this one's resize and parts.
UNNAMED = "torch-fidelity"


def find_protocol(name: str) -> Protocol:
    """The protocol of this name.

    Raises:
        BadInputError: there is none.
    """
    if name not in PROTOCOLS:
        raise BadInputError(f"unknown protocol {name!r}; choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
