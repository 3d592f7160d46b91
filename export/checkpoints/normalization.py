"""Which normalisation a network from elsewhere expects: what says so, in order, else a question."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jboost.engine.errors import BadInputError
from jboost.trainer.architectures import Architecture
from jboost.trainer.joint import FORMS, NORMALIZATIONS, parse_normalization
from jboost.trainer.registries import Usual

from .recognise import View


@dataclass(frozen=True)
class Normalization:
    """Mean and std per channel, for images in [0, 1], and a remark on their source.

    `known` is False where nothing said them and nobody asked: then they are 0 and 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    remark: str
    known: bool = True


def find_normalization(
    path: Path,
    asked: str | None,
    view: View,
    said: Sequence[Usual | None],
    architecture: Architecture,
    channels: int,
    *,
    required: bool,
) -> Normalization:
    """Take the option, else the checkpoint's own values, else what is said, else the usual ones of our own networks.

    Args:
        path: the file, for messages.
        asked: ``--normalize``; None if it was not given.
        view: the weights that fit, with the values of their normaliser.
        said: what the arguments of the training, a registry and the files beside the weights say.
        architecture: the network's.
        channels: number of image channels.
        required: raise where nothing says it; otherwise the result is marked as unknown.

    Raises:
        BadInputError: nothing says it, two sources disagree, or the values are for another number of channels.
    """
    if asked is not None:
        replaced = "" if view.mean is None else ", in place of the checkpoint's own"
        return Normalization(*parse_normalization(asked, channels), f"normalisation: {asked} (--normalize{replaced})")
    if view.mean is not None and view.std is not None:
        mean, std = (v * channels if len(v) == 1 else v for v in (view.mean, view.std))
        if len(mean) != channels or len(std) != channels:
            raise BadInputError(
                f"the checkpoint's normaliser has {len(mean)} means and {len(std)} stds for {channels} channels; give "
                "--normalize"
            )
        return Normalization(mean, std, f"normalisation: {_values(mean, std)} (stored in the checkpoint)")
    fitting = [usual for usual in said if usual is not None and len(usual.mean) == channels]
    for usual in fitting[1:]:
        if not (_close(usual.mean, fitting[0].mean) and _close(usual.std, fitting[0].std)):
            raise BadInputError(
                f"{fitting[0].source} normalises by {_values(fitting[0].mean, fitting[0].std)}, {usual.source} by "
                f"{_values(usual.mean, usual.std)}; choose with --normalize"
            )
    if view.lost_normalizer:
        why = f"the weights in {path} come after another module, a normaliser perhaps, whose values the file does not hold"
    elif fitting:
        usual = fitting[0]
        remark = f"normalisation: {_values(usual.mean, usual.std)} ({usual.source}; change with --normalize)"
        return Normalization(usual.mean, usual.std, remark)
    elif architecture.builtin and architecture.normalization == "imagenet" and channels == 3:
        remark = "normalisation: ImageNet mean/std (torchvision ResNet; change with --normalize)"
        return Normalization(*NORMALIZATIONS["imagenet"], remark)
    elif architecture.builtin and architecture.normalization == "none":
        remark = (
            f"normalisation: none (usual for {architecture.name}, the checkpoint holds none; change with --normalize)"
        )
        return Normalization(*parse_normalization("none", channels), remark)
    else:
        why = f"nothing says how {architecture.name} in {path} normalises its {channels}-channel images"
    if required:
        raise BadInputError(
            f"{why}; give --normalize {FORMS}; none is for a network that takes images in [0, 1] or normalises them itself"
        )
    remark = f"normalisation: unknown ({why}); export asks for --normalize"
    return Normalization(*parse_normalization("none", channels), remark, known=False)


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    return all(math.isclose(x, y, abs_tol=1e-3) for x, y in zip(a, b, strict=True))


def _values(mean: Sequence[float], std: Sequence[float]) -> str:
    return f"mean {','.join(f'{v:.4g}' for v in mean)}, std {','.join(f'{v:.4g}' for v in std)}"
