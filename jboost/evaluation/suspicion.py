"""Recognise features from which no number means anything: those that hardly vary, and those that are probabilities."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from jboost.engine.errors import BadInputError

from .extractors.base import Extractor, Numpy
from .rounding import CONSTANT, Spread
from .sets import Features, Source

# The features' deviation over the images, relative to their size. Features of useful networks vary by a tenth or more.
_SMALL = 2e-2
_PROBED = 16  # images


def check_features(found: Features, source: Source, in_other_range: Callable[[], Extractor] | None) -> list[str]:
    """Check a set's features; returns warnings.

    Args:
        found: the features of `source`.
        source: the set, with its images.
        in_other_range: opens the extractor with inputs in 0 to 255; None if the range was stated.

    Raises:
        BadInputError: the features hardly vary, and vary far more with inputs in 0 to 255.
    """
    warnings = []
    features, whose = found.features, f"the features of {source.path}"
    if features.shape[1] > 1 and bool((features >= 0).all()) and bool(((features.sum(1) - 1).abs() < 1e-3).all()):
        warnings.append(
            f"{whose} are probabilities: each image's add up to 1. A softmax hides most of what images differ in: give the layer "
            "before it as features, and name this output probabilities, which the Inception Score uses"
        )
    varies = variation(features)
    if found.count > 1 and varies < _SMALL and source.images is not None and in_other_range is not None:
        images = source.images.read(np.arange(min(_PROBED, found.count)))
        usual, other = variation(features[: len(images)]), variation(_features(in_other_range(), images))
        if other > 10 * max(usual, 1e-12):
            raise BadInputError(
                f"{whose} hardly vary: by {varies:.2g} of their size, and by {other:.2g} if the extractor gets 0 to 255 instead "
                "of 0 to 1. It seems to be made for that: add --features-range 255 (or --features-range 1 to keep 0 to 1)"
            )
    if found.count > 1 and varies < CONSTANT:
        warnings.append(
            f"{whose} hardly vary (by {varies:.1e} of their size): the numbers measure rounding errors; check what the extractor "
            "takes and gives"
        )
    return warnings


def variation(features: torch.Tensor) -> float:
    """The root mean square of the features' deviations from their means, relative to that of the features; 0 if all are 0."""
    return Spread.of_features(features).variation


def images_vary(sources: Sequence[Source]) -> bool:
    """Whether the first images of the sets differ from each other; true if a set has none to look at."""
    seen: Numpy | None = None
    for source in sources:
        if source.images is None:
            return True
        images = source.images.read(np.arange(min(_PROBED, source.images.shape[0])))
        if seen is None:
            seen = images[:1]
        if images.shape[1:] != seen.shape[1:] or (images != seen).any():
            return True
    return False


def _features(extractor: Extractor, images: Numpy) -> torch.Tensor:
    return torch.from_numpy(extractor(images).features)
