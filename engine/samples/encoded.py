"""What sets of image files inside one file share: parquet's and WebDataset's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError

from .decode import REPEATED, decode, examine
from .notes import Notes
from .options import ReadOptions

Shape = tuple[int, int, int]


def measure(
    path: Path, files: Iterable[tuple[str, bytes]], options: ReadOptions
) -> tuple[Shape, ReadOptions, tuple[str, ...]]:
    """The shape (H, W, C) that all images have, how to read them so, and what is done to them, by their headers.

    Grey images among those in colour get three channels.

    Args:
        path: the set, for messages.
        files: name and bytes of each image.
        options: how they are read.

    Raises:
        BadInputError: an image is unreadable, sizes differ, or there are no images.
    """
    notes, grey = Notes(), Notes()
    first: tuple[str, Shape] | None = None
    channels = set()
    for name, data in files:
        shape, said = examine(data, f"{path}: {name}", options)
        notes.add_all(said, name)
        channels.add(shape[2])
        if shape[2] == 1:
            grey.add(REPEATED, name)
        first = first or (name, shape)
        (height, width, _), (h, w, _) = first[1], shape
        if (h, w) != (height, width):
            remedy = "make them so" if options.resize_flag is None else f"resize them with {options.resize_flag} N"
            raise BadInputError(
                f"{path}: {name} is {w}x{h}, {first[0]} is {width}x{height}; all must have one size: {remedy}"
            )
    if first is None:
        raise BadInputError(f"{path} holds no images")
    lines = notes.lines()
    if len(channels) > 1:
        options = replace(options, channels=3)
        lines += grey.lines()
    return (*first[1][:2], max(channels)), options, lines


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
