"""Continuous batching: B slots, each held by an image from its first to its last step.

Finished images leave and waiting images enter while the rest continue, as in LLM serving. Early stopping then saves
time in proportion to the steps it saves, and images with different numbers of steps can share a run. The number of
slots is fixed for a run; an empty slot does not move.

This module is the host's side: it decides which image holds which slot and when to read the row status. The images are
on the device, in a `Flight`.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from jboost.engine.method.objectives import realness
from jboost.engine.method.settings import Settings

from .flight import Finished, RowStatus
from .pace import Pace
from .runner import Runner

Numpy = np.ndarray[Any, Any]
_EMPTY = -1
_NEVER = np.iinfo(np.int64).max


class Slots:
    """The images in flight on one runner.

    Args:
        runner: computes the steps.
        settings: the update, the threshold of early stopping and the seed.
        count: B, the number of slots.
        shape: (C, H, W) of an image.
        snapshots: numbers of steps, ascending, after which a copy of every image is also taken.
    """

    def __init__(
        self,
        runner: Runner,
        settings: Settings,
        count: int,
        shape: tuple[int, int, int],
        snapshots: Sequence[int] = (),
    ):
        threshold = settings.l0 if settings.early_stop and settings.l0 is not None else np.inf
        controls = settings.update.controls(threshold=threshold, seed=settings.seed)
        self.flight = runner.flight(settings.update.kind, controls, count, shape, settings.rounding)
        self._steps = settings.update.steps
        self._pace = Pace(self.flight.status_every, self._steps, early=bool(threshold < np.inf))
        self._index = np.full(count, _EMPTY, np.int64)
        self._left = np.zeros(count, np.int64)  # steps after which the image in the slot is finished at the latest
        self._status: RowStatus | None = None
        self._marks = np.array([*snapshots, _NEVER], np.int64)
        self._next = np.zeros(count, np.int64)  # position in `_marks` of the slot's next snapshot
        self._queued = np.zeros(count, np.int64)  # steps queued since the image entered; it may have taken fewer
        self._taken: list[tuple[int, Finished]] = []

    @property
    def free(self) -> Numpy:
        """Numbers of the empty slots."""
        return np.flatnonzero(self._index == _EMPTY)

    @property
    def held(self) -> Numpy:
        """Numbers of the slots that hold an image."""
        return np.flatnonzero(self._index != _EMPTY)

    def admit(
        self, images: Numpy, y: Numpy, index: Numpy, limit: Numpy | None = None, numbers: Numpy | None = None
    ) -> None:
        """Put images into free slots, at most as many as are free.

        Args:
            images: uint8 [n, H, W, C].
            y: int64 [n], their classes.
            index: int64 [n], the host's keys of the images; a run sees each key once.
            limit: int64 [n], the maximum number of steps of each image; None for the update's number.
            numbers: int64 [n], the numbers that key the images' noise, in [0, 2^63); None for the keys themselves.
        """
        if limit is None:
            limit = np.full(len(index), self._steps, np.int64)
        slots = self.free[: len(images)]
        start = perf_counter()
        self.flight.admit(slots, images, y, index, limit, index if numbers is None else numbers)
        self._pace.spent(perf_counter() - start)
        self._index[slots], self._left[slots] = index, limit
        self._next[slots] = self._queued[slots] = 0

    def step(self) -> None:
        """Queue the steps until the next status: as many as `Pace` chooses, or fewer if an image's last step or a snapshot
        comes before.
        """
        held, most = self.held, self._pace.distance.steps
        due = self._marks[self._next[held]] - self._queued[held]
        count = int(np.clip(np.minimum(self._left[held], due).min(initial=most), 1, most))
        self._pace.queueing(count)
        for _ in range(count):
            self.flight.step()
        self._left -= count
        self._queued += count

    def harvest(self) -> Finished | None:
        """Take out the images that have finished; None if the status shows none.

        If gradients were not finite, a retry step first computes them in float32 for all waiting images. The retry
        moves no other image.
        """
        held = self.held
        # Some image is due at its last step or a snapshot, unless it has waited for a float32 retry since it entered.
        due = bool(((self._left[held] <= 0) | (self._queued[held] >= self._marks[self._next[held]])).any())
        fresh = due or self._pace.distance.fresh
        status = self.flight.status(fresh=fresh)
        self._pace.seen(fresh=fresh)
        if self._pace.wants_status:
            start = perf_counter()
            self.flight.status(fresh=True)
            self._pace.status_took(perf_counter() - start)
        if (status.waiting & self._current(status)).any():
            self.flight.retry()
            status = self.flight.status(fresh=fresh)
        self._status = status
        reached = np.flatnonzero(self._current(status) & status.moving & (status.steps == self._marks[self._next]))
        if len(reached):
            self._take(reached, self.flight.collect(reached))
        slots = np.flatnonzero(self._current(status) & ~status.moving)
        if not len(slots):
            return None
        start = perf_counter()
        finished = self.flight.collect(slots)
        self._pace.spent(perf_counter() - start)
        # The step that finds an image's realness reached does not move it.
        self._pace.left(int(finished.steps.sum() + finished.stopped.sum()), len(slots))
        while len(self._take(slots, finished)):  # a finished image is also its own later snapshots
            pass
        self._index[slots] = _EMPTY
        return finished

    def snapshots(self) -> list[tuple[int, Finished]]:
        """The snapshots that `harvest` took since the last call: (number of steps, images after that many steps)."""
        taken, self._taken = self._taken, []
        return taken

    def _take(self, slots: Numpy, images: Finished) -> Numpy:
        """Keep `images` as the next snapshot of each of the `slots`; returns these snapshots' numbers of steps."""
        marks = self._marks[self._next[slots]]
        marks_left: Numpy = np.unique(marks[marks != _NEVER])
        for mark in marks_left:
            self._taken.append((int(mark), images.select(marks == mark)))
        self._next[slots] += marks != _NEVER
        return marks_left

    def _current(self, status: RowStatus) -> Numpy:
        """bool [B]: the row's status belongs to the image that holds the slot now, not to one that has left."""
        same: Numpy = (self._index != _EMPTY) & (status.index == self._index)
        return same

    def under_way(self) -> tuple[float, float]:
        """The progress of the images in flight, as a fractional number of finished images, and their mean realness.

        Both come from the last row status. The realness is NaN if that status shows none of these images with a
        finite one.
        """
        status = self._status
        if status is None or not (known := self._current(status)).any():
            return 0.0, float("nan")
        steps, limit, class_logit = (a[known] for a in (status.steps, status.limit, status.class_logit))
        finite = class_logit[np.isfinite(class_logit)]
        done = float((steps / np.maximum(limit, 1)).sum())
        return done, float(realness(finite).mean()) if len(finite) else float("nan")
