"""Running a stream through the slots: images of unknown number enter as they come, and each leaves when it has finished.

It is `run_set` without a store. Images are grouped as `run_set` reads them and pass through the same loop, so a stream gives
the same bits as the set that it spells out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from jboost.engine.method.settings import Settings

from .run import Chunk, Waiting, predicted_classes, turns
from .runner import Runner
from .slots import Slots

Numpy = np.ndarray[Any, Any]

#: The class of an image whose label is not known.
UNKNOWN = -1
# Results kept for one that is due first, in batches. Beyond that no image enters until it has finished.
_MOST_HELD = 16


class Group(NamedTuple):
    """Images of a stream: uint8 [n, H, W, C], their classes int64 [n] or `UNKNOWN`, their positions int64 [n]."""

    images: Numpy
    y: Numpy
    positions: Numpy


class Result(NamedTuple):
    """A finished image.

    Attributes:
        position: its position in the stream.
        image: uint8 [H, W, C].
        steps, stopped, failed, moved: as in `jboost.engine.loop.flight.Finished`.
    """

    position: int
    image: Numpy
    steps: int
    stopped: bool
    failed: bool
    moved: float


def grouped(chunks: Iterable[tuple[Numpy, Numpy | None]], size: int) -> Iterator[Group]:
    """Chunks of any size as groups of `size` images, the last one smaller. Empty chunks are passed over.

    Args:
        chunks: (images uint8 [n, H, W, C], classes int64 [n] or None) in order; at most one more than needed is read.
        size: images per group.
    """
    parts: list[tuple[Numpy, Numpy]] = []
    have = begun = 0
    for images, labels in chunks:
        y = np.full(len(images), UNKNOWN, np.int64) if labels is None else labels
        start = 0
        while start < len(images):
            end = min(start + size - have, len(images))
            parts.append((images[start:end], y[start:end]))
            have, start = have + end - start, end
            if have == size:
                yield _joined(parts, begun)
                parts, have, begun = [], 0, begun + size
    if have:
        yield _joined(parts, begun)


def _joined(parts: list[tuple[Numpy, Numpy]], begun: int) -> Group:
    images, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Group(images, y, np.arange(begun, begun + len(images)))


def run_stream(
    runner: Runner,
    groups: Iterable[Group],
    settings: Settings,
    *,
    shape: tuple[int, int, int],
    batch_size: int,
    ordered: bool,
    numbers: Iterator[int] | None = None,
) -> Iterator[Result]:
    """Boost images as they come. The groups are read in the caller's thread, whenever slots are free and no image waits.

    Args:
        runner: the engine, bound to a bundle and an objective.
        groups: from `grouped`, with groups of `batch_size` images.
        settings: the update, early stopping and the seed.
        shape: (H, W, C) of an image.
        batch_size: the number of slots.
        ordered: yield in the order of the stream; else as images finish.
        numbers: for each image in the order of the stream, the number in [0, 2^63) that keys its noise; None for positions.

    Returns:
        An iterator. It reads no more while it is not asked, so memory is bounded: `batch_size` images in flight, as many read
        ahead, and 17 times as many results that wait for one that is due before them.

    Raises:
        Exception: any error from the groups or from computing.
    """
    height, width, channels = shape
    slots = Slots(runner, settings, batch_size, (channels, height, width))
    held: dict[int, Result] = {}  # finished, but one before them has not
    due = 0
    # The result that is due holds a slot, or it would have been yielded: so an image is in flight while others are held.
    for finished in turns(
        slots, Waiting(_waiting(runner, groups, numbers, batch_size)), lambda: len(held) < _MOST_HELD * batch_size
    ):
        if finished is None:
            continue
        rows = (finished.index, finished.images, finished.steps, finished.stopped, finished.failed, finished.moved)
        for index, image, steps, stopped, failed, moved in zip(*rows, strict=True):
            held[int(index)] = Result(int(index), image, int(steps), bool(stopped), bool(failed), float(moved))
        while held and (not ordered or due in held):
            yield held.pop(due if ordered else next(iter(held)))
            due += 1


def _waiting(
    runner: Runner, groups: Iterable[Group], numbers: Iterator[int] | None, batch_size: int
) -> Iterator[Chunk]:
    """Each group, with the model's predictions (algorithm 1) where a class is not known."""
    for images, y, positions in groups:
        unknown = y == UNKNOWN
        if unknown.any():
            y = np.where(unknown, predicted_classes(runner, images, batch_size), y)
        own = positions if numbers is None else np.fromiter(islice(numbers, len(y)), np.int64, len(y))
        yield Chunk(images, y, positions, own)
