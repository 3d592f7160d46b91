"""Continuous batching: B slots, each held by an image from its first to its last step.

Finished images leave and waiting ones enter without stopping the rest, as in servers of language models. Early stopping then saves
time in proportion to the steps it saves, and images with different numbers of steps can share a run. The slots keep their number
while a run lasts; an empty one does not move.

This is the host's side: who holds which slot, and when it is worth looking. What is in the slots is on the device, in a `Flight`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jboost.engine.method.objectives import realness
from jboost.engine.method.settings import Settings

from .flight import Finished, Look
from .runner import Runner

Numpy = np.ndarray[Any, Any]
_EMPTY = -1
_NEVER = np.iinfo(np.int64).max


class Slots:
    """The images in flight on one runner.

    Args:
        runner: computes the steps.
        settings: what is done to each image.
        count: B, the number of slots.
        shape: (C, H, W) of an image.
        snapshots: numbers of steps, ascending, after which every image is also taken as it is then.
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
        self.flight = runner.flight(settings.update.kind, controls, count, shape)
        self._index = np.full(count, _EMPTY, np.int64)
        self._left = np.zeros(count, np.int64)  # steps until the image in the slot is done at the latest
        self._seen: Look | None = None
        self._marks = np.array([*snapshots, _NEVER], np.int64)
        self._next = np.zeros(count, np.int64)  # which of the marks the image in the slot comes to next
        self._queued = np.zeros(count, np.int64)  # steps queued since it entered; it may have taken fewer
        self._taken: list[tuple[int, Finished]] = []

    @property
    def free(self) -> Numpy:
        """Numbers of the empty slots."""
        return np.flatnonzero(self._index == _EMPTY)

    @property
    def held(self) -> Numpy:
        """Numbers of the slots that hold an image."""
        return np.flatnonzero(self._index != _EMPTY)

    def admit(self, images: Numpy, y: Numpy, index: Numpy, limit: Numpy) -> None:
        """Let images enter, at most as many as slots are free.

        Args:
            images: uint8 [n, H, W, C].
            y: int64 [n], their classes.
            index: int64 [n], their positions in the set, each of which a run sees once.
            limit: int64 [n], the most steps that each may take.
        """
        slots = self.free[: len(images)]
        self.flight.admit(slots, images, y, index, limit)
        self._index[slots], self._left[slots] = index, limit
        self._next[slots] = self._queued[slots] = 0

    def step(self) -> None:
        """The steps until the next look: as many as the flight likes to take at a time, but none past an image's last, and none
        past one after which a snapshot is due.
        """
        held, most = self.held, self.flight.look_every
        due = self._marks[self._next[held]] - self._queued[held]
        count = int(np.clip(np.minimum(self._left[held], due).min(initial=most), 1, most))
        for _ in range(count):
            self.flight.step()
        self._left -= count
        self._queued += count

    def harvest(self) -> Finished | None:
        """Take out the images that have finished; None if there are none to be seen yet.

        Images whose gradient was not finite get theirs in float32 first, in one step for all of them, which moves no other image.
        """
        held = self.held
        # Somebody is at the end, or at a snapshot, or would be if it had not waited for float32 on the way.
        fresh = bool(((self._left[held] <= 0) | (self._queued[held] >= self._marks[self._next[held]])).any())
        look = self.flight.look(fresh=fresh)
        if (look.waiting & self._tells(look)).any():
            self.flight.retry()
            look = self.flight.look(fresh=fresh)
        self._seen = look
        reached = np.flatnonzero(self._tells(look) & look.moving & (look.steps == self._marks[self._next]))
        if len(reached):
            self._take(reached, self.flight.collect(reached))
        slots = np.flatnonzero(self._tells(look) & ~look.moving)
        if not len(slots):
            return None
        finished = self.flight.collect(slots)
        while len(self._take(slots, finished)):  # an image that moves no more is all its later snapshots
            pass
        self._index[slots] = _EMPTY
        return finished

    def snapshots(self) -> list[tuple[int, Finished]]:
        """The snapshots that `harvest` has come by since the last call: a number of steps, and images as so many left them."""
        taken, self._taken = self._taken, []
        return taken

    def _take(self, slots: Numpy, images: Finished) -> Numpy:
        """Keep the next snapshot of each of the `slots`, whose images are given; returns the marks they were at."""
        marks = self._marks[self._next[slots]]
        marks_left: Numpy = np.unique(marks[marks != _NEVER])
        for mark in marks_left:
            self._taken.append((int(mark), images.select(marks == mark)))
        self._next[slots] += marks != _NEVER
        return marks_left

    def _tells(self, look: Look) -> Numpy:
        """bool [B]: the look speaks of the image that holds the slot now, not of one that has left."""
        same: Numpy = (self._index != _EMPTY) & (look.index == self._index)
        return same

    def under_way(self) -> tuple[float, float]:
        """The images in flight, at the last look, as a number of finished ones, and their mean realness (NaN without any)."""
        if self._seen is None or not (known := self._tells(self._seen)).any():
            return 0.0, float("nan")
        steps, limit, class_logit = (a[known] for a in (self._seen.steps, self._seen.limit, self._seen.class_logit))
        return float((steps / np.maximum(limit, 1)).sum()), float(realness(class_logit).mean())
