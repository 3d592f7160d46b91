"""Running a whole set through the slots: images enter as others leave, and results are written as images finish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jboost.engine.method.settings import Settings
from jboost.engine.results.store import Store

from .flight import Finished
from .pipeline import ReadAhead, Reader, WriteBehind
from .runner import Runner
from .scorer import Scorer, score
from .slots import Slots

Numpy = np.ndarray[Any, Any]


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        total: images in the set.
        before: images that an earlier run finished.
        finished: images that this run finished; images in flight count by their steps.
        realness: mean realness of the images in flight; NaN if none.
    """

    total: int
    before: int
    finished: float
    realness: float


ProgressCallback = Callable[[Progress], None]


class Chunk(NamedTuple):
    """Images that enter the slots one after another.

    Attributes:
        images: uint8 [n, H, W, C].
        y: int64 [n], classes.
        keys: int64 [n], the host's keys of the images: no two images of a run share one.
        numbers: int64 [n], the numbers that key the noise.
    """

    images: Numpy
    y: Numpy
    keys: Numpy
    numbers: Numpy


def run_set(
    runner: Runner,
    read: Reader,
    labels: Numpy | None,
    store: Store,
    settings: Settings,
    *,
    shape: tuple[int, int, int],
    batch_size: int,
    numbers: Numpy | None = None,
    on_progress: ProgressCallback | None = None,
) -> int:
    """Boost every image that `store` does not have yet.

    Each turn of the loop admits waiting images to free slots, queues steps, takes out finished images and hands them
    on. `jboost.engine.loop.reference` shows what happens to one image.

    Args:
        runner: the engine, bound to a bundle and an objective.
        read: reads the images; called from another thread.
        labels: int64 [N], or None to take c = argmax f(x0), as in algorithm 1.
        store: receives the results, from another thread. Its records say which images are done; the keys of its
            snapshots say after how many steps to take snapshots.
        settings: the update, early stopping and the seed.
        shape: (H, W, C) of an image.
        batch_size: the number of slots; empty slots are computed too, so shapes stay fixed.
        numbers: int64 [N], the numbers that key the images' noise, in [0, 2^63); None for their positions.
        on_progress: called at the end of each turn.

    Returns:
        The number of images this call finished.

    Raises:
        Exception: any error from reading, computing or writing.
    """
    todo = np.flatnonzero(~store.records["done"])
    if not len(todo):
        return 0
    total, before = len(store.records), len(store.records) - len(todo)
    height, width, channels = shape
    with ReadAhead(read, todo, batch_size) as ahead, WriteBehind(store) as behind:
        waiting = Waiting(_labelled(runner, ahead, labels, numbers, batch_size))
        slots = Slots(runner, settings, batch_size, (channels, height, width), tuple(store.snapshots))
        scorer = Scorer(runner, batch_size, behind)
        for finished in turns(slots, waiting):
            scorer.take(slots.snapshots(), finished)
            if on_progress is not None:
                done, mean_realness = slots.under_way()
                on_progress(Progress(total, before, scorer.count + done, mean_realness))
        scorer.flush()
    return scorer.count


def turns(slots: Slots, waiting: Waiting, may_admit: Callable[[], bool] = lambda: True) -> Iterator[Finished | None]:
    """The loop itself: each turn fills the free slots, queues steps and yields the images that have finished, if any.

    It ends when no image waits and no slot is held. A further call goes on with images that have been read since.

    Args:
        slots: the images in flight.
        waiting: the images to come, in the order in which they enter.
        may_admit: whether images may enter now. It may be false only while an image is in flight.
    """
    while True:
        while len(slots.free) and may_admit() and waiting.more():
            images, y, keys, numbers = waiting.take(len(slots.free))
            slots.admit(images, y, keys, numbers=numbers)
        if not len(slots.held):
            return
        slots.step()
        yield slots.harvest()


def _labelled(
    runner: Runner, chunks: ReadAhead, labels: Numpy | None, numbers: Numpy | None, batch_size: int
) -> Iterator[Chunk]:
    """The chunks as they wait; without labels, the classes are the model's predictions."""
    for indices, images in chunks:
        y = predicted_classes(runner, images, batch_size) if labels is None else labels[indices]
        yield Chunk(images, y, indices, indices if numbers is None else numbers[indices])


def predicted_classes(runner: Runner, images: Numpy, batch_size: int) -> Numpy:
    """The model's predictions for at most `batch_size` images uint8 [n, H, W, C]: int64 [n]."""
    predicted: Numpy = score(runner, images, np.zeros(len(images), np.int64), batch_size).predicted
    return predicted


class Waiting:
    """Images that have been read and wait for a slot.

    Args:
        chunks: in the order in which they enter; read as needed. None stands for images that have not been read yet.
    """

    def __init__(self, chunks: Iterator[Chunk | None]):
        self._chunks = chunks
        self._now: Chunk | None = None

    def more(self) -> bool:
        """Whether any image waits; asks for the next chunk if necessary."""
        if self._now is None or not len(self._now.images):
            self._now = next(self._chunks, None)
        return self._now is not None

    def take(self, most: int) -> Chunk:
        """At most `most` waiting images."""
        assert self._now is not None
        taken = Chunk(*(a[:most] for a in self._now))
        self._now = Chunk(*(a[most:] for a in self._now))
        return taken
