"""What sets of image files inside one file share: parquet's and WebDataset's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError

from .decode import decode, examine
from .notes import Notes
from .options import ReadOptions

Shape = tuple[int, int, int]


def measure(path: Path, files: Iterable[tuple[str, bytes]], options: ReadOptions) -> tuple[Shape, tuple[str, ...]]:
    """The shape (H, W, C) that all images have, and what is done to them, by their headers.

    Args:
        path: the set, for messages.
        files: name and bytes of each image.
        options: how they are read.

    Raises:
        BadInputError: an image is unreadable, shapes differ, or there are no images.
    """
    notes = Notes()
    first: tuple[str, Shape] | None = None
    for name, data in files:
        shape, said = examine(data, f"{path}: {name}", options)
        notes.add_all(said, name)
        if first is None:
            first = name, shape
        elif shape != first[1]:
            sizes = shape[:2] != first[1][:2]
            remedy = (
                f"resize all with {options.resize_flag} {first[1][0]}" if sizes else "convert all to one of the two"
            )
            raise BadInputError(
                f"{path}: {name} is {_text(shape)}, {first[0]} is {_text(first[1])}; all must be alike: {remedy}"
            )
    if first is None:
        raise BadInputError(f"{path} holds no images")
    return first[1], notes.lines()


def decoded(
    path: Path, files: Iterable[tuple[str, bytes]], count: int, shape: Shape, options: ReadOptions
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """`count` images as uint8 [count, H, W, C].

    Raises:
        BadInputError: an image is damaged.
    """
    out = np.empty((count, *shape), np.uint8)
    notes = Notes()  # said when the set was opened
    rows: Iterator[tuple[str, bytes]] = iter(files)
    for row in range(count):
        name, data = next(rows)
        out[row] = decode(data, f"{path}: {name}", options, notes)
    return out


def _text(shape: Shape) -> str:
    return f"{shape[1]}x{shape[0]} {'RGB' if shape[2] == 3 else 'grey'}"
