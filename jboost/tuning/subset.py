"""The images to tune on: a few of the set, spread evenly over its classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.bundle import BundleConfig
from jboost.engine.errors import BadInputError
from jboost.engine.samples import SampleSet, check_fit, labels_of
from jboost.engine.samples.numbers import sample_numbers

Numpy = np.ndarray[Any, Any]
#: With fewer, a covariance has no meaning.
LEAST = 2


@dataclass(frozen=True)
class Subset:
    """The images to tune on.

    Attributes:
        path: the set that they are from.
        images: uint8 [n, H, W, C].
        labels: int64 [n], or None.
        positions: int64 [n], their positions in the set, ascending.
        numbers: int64 [n], the numbers that key their noise in a run of the whole set.
    """

    path: Path
    images: Numpy
    labels: Numpy | None
    positions: Numpy
    numbers: Numpy


class InMemory:
    """An array as a `SampleSet`, for the extractor. `images` is uint8 [N, H, W, C]."""

    kind, label_source, fingerprint = "array", "none: an array", ""
    labels: np.ndarray[Any, np.dtype[np.int64]] | None = None
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, images: Numpy):
        self.path, self._images = path, images
        n, h, w, c = images.shape
        self.shape = (n, h, w, c)

    def read(self, indices: Numpy) -> Numpy:
        """The images at `indices`."""
        return self._images[indices]


def pick(samples: SampleSet, count: int, config: BundleConfig) -> Subset:
    """Choose and read `count` images, or all if there are fewer.

    Args:
        samples: the set.
        count: how many, at least `LEAST`.
        config: the bundle's, which the images must fit.

    Raises:
        BadInputError: the set does not fit the bundle, or it has too few images.
    """
    labels = labels_of(samples, class_names=config.class_names, num_classes=config.num_classes)
    check_fit(
        labels, samples.shape, num_classes=config.num_classes, in_channels=config.in_channels, resolutions=config.resolutions
    )  # fmt: skip
    if samples.shape[0] < LEAST:
        raise BadInputError(f"{samples.path} has {samples.shape[0]} image; a FID needs at least {LEAST}")
    positions = spread(labels, samples.shape[0], count)
    return Subset(
        samples.path, samples.read(positions), None if labels is None else labels[positions], positions,
        sample_numbers(samples)[positions],
    )  # fmt: skip


def spread(labels: Numpy | None, total: int, count: int) -> Numpy:
    """Positions int64 [min(count, total)], ascending: every k-th image once the set is sorted by class."""
    order = np.arange(total) if labels is None else np.argsort(labels, kind="stable")
    places = np.linspace(0, total - 1, min(count, total)).round().astype(np.int64)
    return np.sort(order[places]).astype(np.int64)
