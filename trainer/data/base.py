"""The interface of labelled image sets, and subsets of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jboost.engine.errors import BadInputError

from .order import EpochOrder

Indices = NDArray[np.int64]
Pixels = NDArray[np.uint8]


class ImageData(Protocol):
    """Labelled images on disk.

    Memory holds only the index, or a compressed set that unpacks to less than `storage.IN_MEMORY` bytes.

    Attributes:
        path: the file or folder.
        shape: (N, H, W, C) of the images that `read` returns.
        labels: int64 [N], classes counted from 0.
        class_names: name of each class; None if the set has no names.
        label_source: where the labels come from.
        notes: remarks for the user about how the set was read, one sentence each.
    """

    @property
    def path(self) -> Path: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int, int, int, int]: ...  # noqa: D102
    @property
    def labels(self) -> Indices: ...  # noqa: D102
    @property
    def class_names(self) -> tuple[str, ...] | None: ...  # noqa: D102
    @property
    def label_source(self) -> str: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102

    def read(self, indices: Indices) -> Pixels:
        """Images uint8 [n, H, W, C] at `indices` [n], in any order. Safe to call from several threads.

        Raises:
            BadInputError: an image is damaged; the message names its file.
        """
        ...

    def original(self, index: int) -> Pixels:
        """One image as `read` gives it, but at its own size: uint8 [h, w, C]. Safe to call from several threads.

        Raises:
            BadInputError: an image is damaged, or the set gives images at one size only.
        """
        ...


class Subset:
    """The images of a set at `indices`, as an `ImageData`."""

    def __init__(self, data: ImageData, indices: Indices):
        self._data, self._indices = data, indices
        self.path = data.path
        self.shape: tuple[int, int, int, int] = (len(indices), *data.shape[1:])
        self.labels: Indices = data.labels[indices]
        self.class_names, self.label_source = data.class_names, data.label_source
        self.notes = data.notes

    def read(self, indices: Indices) -> Pixels:
        """Images uint8 [n, H, W, C] at `indices` [n]."""
        return self._data.read(self._indices[indices])

    def original(self, index: int) -> Pixels:
        """One image at its own size, uint8 [h, w, C]."""
        return self._data.original(int(self._indices[index]))


def hold_out(data: ImageData, count: int, seed: int) -> tuple[Subset, Subset]:
    """Split a set at random: all but `count` images for training, and `count` images for validation.

    The same seed gives the same split.

    Raises:
        BadInputError: the set has no more than `count` images.
    """
    total = data.shape[0]
    if not 0 <= count < total:
        raise BadInputError(f"{data.path} has {total} images, so {count} cannot be held out; hold out fewer")
    order = EpochOrder(total, seed).at(np.arange(total))
    # In ascending order, so that neighbours on disk stay neighbours.
    return Subset(data, np.sort(order[count:])), Subset(data, np.sort(order[:count]))


def count_classes(data: ImageData) -> int:
    """The number of classes of a set: the number of its class names, else its largest label plus 1."""
    return len(data.class_names) if data.class_names is not None else int(data.labels.max()) + 1


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Prefix the message of a `BadInputError` with `path`, unless it names `path` already."""
    try:
        yield
    except BadInputError as e:
        if str(path) in str(e):
            raise
        raise BadInputError(f"{path}: {e}") from e
