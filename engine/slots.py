"""Continuous batching: B slots, each held by an image from its first to its last step.

Finished images leave and waiting ones enter without stopping the rest, as in servers of language models. Early stopping then saves
time in proportion to the steps it saves, and images with different numbers of steps can share a run. The slots keep their number
while a run lasts; an empty one holds zeros and does not move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import namespace, per_image
from .presets import Settings
from .runner import Runner
from .step import State
from .updates import Controls, l2_norm

Numpy = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Finished:
    """Images that left their slots, as numpy arrays.

    Attributes:
        images: uint8 [n, H, W, C], rounded to nearest; an image that never moved as it came.
        index: int64 [n], their positions in the set.
        y: int64 [n], their classes.
        steps: int64 [n], steps taken.
        stopped: bool [n], ended early because their realness reached l0.
        failed: bool [n], the gradient was not finite even in float32; the image is the input.
        retried: bool [n], a gradient was not finite and was computed again in float32.
        before_logit: float32 [n], f_c at the input; NaN where no gradient was needed (no steps).
        before_predicted: int64 [n], the predicted class at the input.
        moved: float32 [n], L2 distance between the input and the rounded output, in units of the image's range [0, 1].
    """

    images: Numpy
    index: Numpy
    y: Numpy
    steps: Numpy
    stopped: Numpy
    failed: Numpy
    retried: Numpy
    before_logit: Numpy
    before_predicted: Numpy
    moved: Numpy


class Slots:
    """The images in flight on one runner.

    Args:
        runner: computes the steps.
        settings: what is done to each image.
        count: B, the number of slots.
        shape: (C, H, W) of an image.
    """

    def __init__(self, runner: Runner, settings: Settings, count: int, shape: tuple[int, int, int]):
        self._runner, self._kind = runner, settings.update.kind
        threshold = settings.l0 if settings.early_stop and settings.l0 is not None else np.inf
        put = runner.put
        self._controls = Controls(*map(put, settings.update.controls(threshold=threshold, seed=settings.seed)))
        images, integers, flags = (count, *shape), np.zeros(count, np.int64), np.zeros(count, np.bool_)
        reals = np.zeros(count, np.float32)
        start = State(
            x=np.zeros(images, np.float32), x0=np.zeros(images, np.float32), y=integers, index=integers, limit=integers,
            steps=integers, moving=flags, stopped=flags, failed=flags, waiting=flags, retried=flags, class_logit=reals,
            before_logit=reals, before_predicted=integers,
        )  # fmt: skip
        # Copies: rows are written in place when an image enters.
        self.state = State(*(put(a.copy()) for a in start))
        self._held = np.zeros(count, np.bool_)

    @property
    def free(self) -> Numpy:
        """Numbers of the empty slots."""
        return np.flatnonzero(~self._held)

    @property
    def held(self) -> Numpy:
        """Numbers of the slots that hold an image."""
        return np.flatnonzero(self._held)

    def admit(self, images: Numpy, y: Numpy, index: Numpy, limit: Numpy) -> None:
        """Let images enter, at most as many as slots are free.

        Args:
            images: uint8 [n, H, W, C].
            y: int64 [n], their classes.
            index: int64 [n], their positions in the set.
            limit: int64 [n], the most steps that each may take.
        """
        n = len(images)
        slots, state, put = self.free[:n], self.state, self._runner.put
        rows = put(slots)
        x0 = to_float(put(images))
        no, zero = put(np.zeros(n, np.bool_)), put(np.zeros(n, np.int64))
        entering = State(
            x=x0, x0=x0, y=put(y), index=put(index), limit=put(limit), steps=zero, moving=put(limit > 0), stopped=no,
            failed=no, waiting=no, retried=no, class_logit=put(np.zeros(n, np.float32)),
            before_logit=put(np.full(n, np.nan, np.float32)), before_predicted=zero,
        )  # fmt: skip
        for array, new in zip(state, entering, strict=True):
            array[rows] = new
        self._held[slots] = True

    def step(self) -> None:
        """One step of every image in flight. Nothing here waits for the device."""
        self.state = self._runner.step(self._kind, self.state, self._controls)

    def harvest(self) -> Finished | None:
        """Take out the images that have finished; None if there are none.

        Images whose gradient was not finite get theirs in float32 first, in one step for all of them, which moves no other image.
        """
        get = self._runner.get
        if get(self.state.waiting).any():
            self.state = self._runner.step(self._kind, self.state, self._controls, precise=True)
        slots = np.flatnonzero(self._held & ~get(self.state.moving))
        if not len(slots):
            return None
        rows = self._runner.put(slots)
        s = State(*(array[rows] for array in self.state))
        xp = namespace(s.x)
        # Images that never moved come back as they were, to the bit.
        untouched = s.failed | (s.steps == 0)
        images = to_uint8(xp.where(per_image(untouched, s.x), s.x0, s.x))
        self._held[slots] = False
        return Finished(
            images=get(images), index=get(s.index), y=get(s.y), steps=np.where(get(s.failed), 0, get(s.steps)),
            stopped=get(s.stopped), failed=get(s.failed), retried=get(s.retried), before_logit=get(s.before_logit),
            before_predicted=get(s.before_predicted), moved=get(l2_norm(to_float(images) - s.x0)),
        )  # fmt: skip


def to_float(images: Any) -> Any:
    """uint8 [N, H, W, C] in [0, 255] -> float32 [N, C, H, W] in [0, 1], on the same device."""
    xp = namespace(images)
    channels_first = xp.permute_dims(images, (0, 3, 1, 2))
    return xp.astype(channels_first, xp.float32, copy=True) / 255.0


def to_uint8(x: Any) -> Any:
    """float32 [N, C, H, W] -> uint8 [N, H, W, C], clamped to [0, 1] (algorithm 3's last line) and rounded to nearest."""
    xp = namespace(x)
    levels = xp.round(xp.clip(x, 0.0, 1.0) * 255.0)
    return xp.permute_dims(xp.astype(levels, xp.uint8), (0, 2, 3, 1))
