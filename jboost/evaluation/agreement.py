"""Settle the protocol of an evaluation, and keep numbers of different protocols apart."""

from __future__ import annotations

from collections.abc import Sequence

from jboost.engine.errors import BadInputError

from .protocols import PROTOCOLS, Protocol, find_protocol
from .sets import Source


def choose_protocol(stated: str | None, ref: Source, sets: Sequence[Source]) -> Protocol:
    """The protocol to follow.

    The stated one; else the one that files of features or statistics were made by; else OpenAI's if the reference is an npz
    file, which is how its evaluator takes references; else torch-fidelity's.

    Raises:
        BadInputError: there is no protocol of that name.
    """
    if stated is not None:
        return find_protocol(stated)
    for source in (ref, *sets):
        if source.features is not None:
            return PROTOCOLS[source.features.protocol]
    if ref.origin is not None and ref.images is None:
        return PROTOCOLS[ref.origin]
    return PROTOCOLS["openai" if ref.images is None or ref.images.kind == "npz" else "torch-fidelity"]


def check_agreement(protocol: Protocol, stated: str | None, ref: Source, sets: Sequence[Source]) -> list[str]:
    """Check that Inception's features and statistics in files were made by `protocol`; returns notes.

    Statistics beside images are dropped from `ref` if they are another protocol's: the images give its own.

    Raises:
        BadInputError: features or statistics of another protocol, or statistics that do not name theirs while none is stated.
    """
    notes = []
    if ref.moments is not None and ref.images is not None and ref.origin not in (None, protocol.name):
        ref.moments = ref.spatial = None
        whose, count = PROTOCOLS[ref.origin or ""].title, ref.images.shape[0]
        notes.append(
            f"the statistics in {ref.path} are of {whose} and left aside for {protocol.name}; its {count:,} images are used"
        )
    # What is bound to a protocol: files of features, and of statistics alone.
    made = [
        (source.path, "the features", source.features.protocol)
        for source in (ref, *sets)
        if source.features is not None
    ]
    if ref.moments is not None and ref.origin is not None:
        made.insert(0, (ref.path, "the statistics", ref.origin))
    for path, what, name in made:
        if name == protocol.name:
            continue
        if {other for *_, other in made} == {name}:
            remedy = (
                f"give --protocol {name}, or make them from images with --save-features and --protocol {protocol.name}"
            )
        else:
            remedy = "make them all by one protocol, from images, with --save-features and --protocol"
        raise BadInputError(
            f"{what} in {path} were made by {name}, and this evaluation follows {protocol.name}: they do not compare; {remedy}"
        )
    if ref.moments is not None and ref.origin is None and stated is None:
        raise BadInputError(
            f"{ref.path} does not say which program made its statistics, and FID depends on it: add --protocol pytorch-fid "
            "if pytorch-fid wrote it, or --protocol openai for programs with TensorFlow's resize (TTUR, EDM, StyleGAN)"
        )
    return notes
