"""Running a whole set through the slots: images enter as others leave, and results are written as they finish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jboost.engine.method.objectives import realness
from jboost.engine.method.settings import Settings
from jboost.engine.results.store import Store
from jboost.engine.results.summary import RECORD

from .flight import Finished
from .pipeline import ReadAhead, Reader, WriteBehind
from .runner import Evaluation, Runner
from .slots import Slots

Numpy = np.ndarray[Any, Any]
_RESULT = 0  # steps come after it


class Progress(NamedTuple):
    """How far a run is: `total` images in the set, `before` of them finished by an earlier run, `finished` by this one
    (fractional: images in flight count by their steps), and the mean `realness` of the images in flight (NaN without any)."""

    total: int
    before: int
    finished: float
    realness: float


ProgressCallback = Callable[[Progress], None]


def run_set(
    runner: Runner,
    read: Reader,
    labels: Numpy | None,
    store: Store,
    settings: Settings,
    *,
    batch_size: int,
    limits: Numpy | None = None,
    on_progress: ProgressCallback | None = None,
) -> int:
    """Boost every image that `store` does not have yet.

    Args:
        runner: the engine, bound to a bundle and an objective.
        read: gives the images; called from another thread.
        labels: int64 [N], or None to take c = argmax f(x0), as in algorithm 1.
        store: takes the results, from another thread; its records say what is done, its snapshots which are wanted.
        settings: what is done to each image.
        batch_size: the number of slots; empty ones are carried along, so that shapes stay fixed.
        limits: int64 [N], the most steps that each image may take; None for the update's own number for all.
        on_progress: called after each look at the images in flight.

    Returns:
        The number of images this call finished.

    Raises:
        Exception: whatever reading, computing or writing raised.
    """
    todo = np.flatnonzero(~store.records["done"])
    if not len(todo):
        return 0
    if limits is None:
        limits = np.full(len(store.records), settings.update.steps, np.int64)
    total, before = len(store.records), len(store.records) - len(todo)
    with ReadAhead(read, todo, batch_size) as ahead, WriteBehind(store) as behind:
        waiting = _Waiting(_labelled(runner, ahead, labels, batch_size))
        last = _LastLook(runner, batch_size, behind)
        slots: Slots | None = None
        while True:
            while (slots is None or len(slots.free)) and waiting.more():
                if slots is None:
                    height, width, channels = waiting.shape
                    slots = Slots(runner, settings, batch_size, (channels, height, width), tuple(store.snapshots))
                images, y, index = waiting.take(len(slots.free))
                slots.admit(images, y, index, limits[index])
            if slots is None or not len(slots.held):
                break
            slots.step()
            finished = slots.harvest()
            for step, taken in slots.snapshots():
                last.add(taken, step)
            if finished is not None:
                last.add(finished)
            if on_progress is not None:
                done, mean_realness = slots.under_way()
                on_progress(Progress(total, before, last.count + done, mean_realness))
        last.flush()
    return last.count


def _labelled(
    runner: Runner, chunks: ReadAhead, labels: Numpy | None, batch_size: int
) -> Iterator[tuple[Numpy, Numpy, Numpy]]:
    """(images, classes, indices) a chunk; the classes are the model's own where no labels were given."""
    for indices, images in chunks:
        if labels is not None:
            yield images, labels[indices], indices
        else:
            yield images, look(runner, images, np.zeros(len(images), np.int64), batch_size).predicted, indices


class _Waiting:
    """Images that have been read and wait for a slot."""

    def __init__(self, chunks: Iterator[tuple[Numpy, Numpy, Numpy]]):
        self._chunks = chunks
        self._now: tuple[Numpy, Numpy, Numpy] | None = None

    def more(self) -> bool:
        """Whether there are any."""
        if self._now is None or not len(self._now[0]):
            self._now = next(self._chunks, None)
        return self._now is not None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of an image, while there are more."""
        assert self._now is not None
        height, width, channels = self._now[0].shape[1:]
        return height, width, channels

    def take(self, most: int) -> tuple[Numpy, Numpy, Numpy]:
        """At most so many: images uint8 [n, H, W, C], classes [n], positions in the set [n]."""
        assert self._now is not None
        images, y, index = (a[:most] for a in self._now)
        self._now = tuple(a[most:] for a in self._now)  # type: ignore[assignment]
        return images, y, index


class _LastLook:
    """What the model says of the results: of the rounded images, which are what the user gets. In full batches.

    An image's result is handed on after its snapshots: where a result is kept, they are too.

    Args:
        runner: the engine.
        batch_size: images a forward pass.
        behind: takes the results and their records.
    """

    def __init__(self, runner: Runner, batch_size: int, behind: WriteBehind):
        self._runner, self._size, self._behind = runner, batch_size, behind
        # Images, classes, positions, records, and the number of steps of a snapshot, or _RESULT.
        self._moved: list[tuple[Numpy, Numpy, Numpy, Numpy, Numpy]] = []
        self.count = 0

    def add(self, finished: Finished, step: int | None = None) -> None:
        """Take images that have finished, or a snapshot of them after `step` steps; those that did not move are known already."""
        records = self._records(finished)
        # One whose gradient failed has not moved either, but its snapshots may have.
        rest = (finished.steps > 0) | finished.failed | np.isnan(finished.before_logit)
        if step is None:
            self.count += len(records)
        if not rest.all():
            still = ~rest
            self._behind.put(finished.index[still], finished.images[still], records[still], step)
        if rest.any():
            kind = np.full(rest.sum(), _RESULT if step is None else step)
            self._moved.append((finished.images[rest], finished.y[rest], finished.index[rest], records[rest], kind))
        while sum(len(m[0]) for m in self._moved) >= self._size:
            self._look()

    def flush(self) -> None:
        """Look at what is left."""
        if self._moved:
            self._look()

    def _look(self) -> None:
        columns = [np.concatenate(column) for column in zip(*self._moved, strict=True)]
        rest = tuple(a[self._size :] for a in columns)
        self._moved = [rest] if len(rest[0]) else []  # type: ignore[list-item]
        images, y, index, records, kinds = (a[: self._size] for a in columns)
        after = look(self._runner, images, y, self._size)
        records["realness_after"] = realness(after.class_logit)
        records["correct_after"] = after.predicted == y
        unseen = np.isnan(records["realness_before"])  # no step was asked for: the image is its own "before"
        for name in ("realness", "correct"):
            records[f"{name}_before"][unseen] = records[f"{name}_after"][unseen]
        for kind in np.unique(kinds)[::-1]:  # results last
            of = kinds == kind
            self._behind.put(index[of], images[of], records[of], None if kind == _RESULT else int(kind))

    def _records(self, finished: Finished) -> Numpy:
        f = finished
        records = np.zeros(len(f.index), RECORD)
        records["done"] = True
        records["steps"] = f.steps
        records["stopped"] = f.stopped
        records["retried"] = f.retried & (self._runner.dtype != "fp32")
        records["failed"] = f.failed
        records["realness_before"] = records["realness_after"] = realness(f.before_logit)
        records["correct_before"] = records["correct_after"] = f.before_predicted == f.y
        records["l2"] = f.moved
        return records


def look(runner: Runner, images: Numpy, y: Numpy, batch_size: int) -> Evaluation:
    """What the model says of images uint8 [n, H, W, C] with classes `y` [n], n at most `batch_size`, as numpy arrays."""
    pad = np.minimum(np.arange(batch_size), len(images) - 1)  # repeats the last image
    evaluation = runner.evaluate_images(images[pad], y[pad])
    return Evaluation(*(a[: len(images)] for a in evaluation))
