"""The base of the runners that keep the images in flight as array-API arrays (numpy, torch)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any

import numpy as np

from jboost.engine.loop.flight import Finished, RowStatus
from jboost.engine.loop.runner import Evaluation
from jboost.engine.method.arrays import Array, namespace, per_image
from jboost.engine.method.rounding import NEAREST, NO_BALL, Limit, limit_of, round_within
from jboost.engine.method.step import Gradient, State, advance
from jboost.engine.method.updates import Controls, l2_norm

Numpy = np.ndarray[Any, Any]


class ArrayRunner(ABC):
    """A runner that computes gradient and update on its own arrays."""

    @abstractmethod
    def put(self, array: Numpy) -> Array:
        """`array` on the runner's device."""

    @abstractmethod
    def get(self, array: Array) -> Numpy:
        """`array` as numpy."""

    @abstractmethod
    def gradient(self, x: Array, y: Array, *, in_float32: bool = False) -> Gradient:
        """One forward and backward pass. With `in_float32`, it runs in float32 whatever the runner's dtype."""

    @abstractmethod
    def evaluate(self, x: Array, y: Array) -> Evaluation:
        """One forward pass: `x` float32 [B, C, H, W] in [0, 1], `y` int64 [B]."""

    def check_update(self, update_kind: str) -> None:  # noqa: B027
        """Do nothing: `advance` supports every registered update."""

    def step(self, update_kind: str, state: State, controls: Controls, *, in_float32: bool = False) -> State:
        """Gradient and update, operator by operator; see `jboost.engine.method.step.advance`."""
        gradient = self.gradient(state.x, state.y, in_float32=in_float32)
        return advance(update_kind, state, gradient, controls, in_float32)

    def flight(
        self,
        update_kind: str,
        controls: Controls,
        count: int,
        shape: tuple[int, int, int],
        rounding: str = NEAREST,
    ) -> ArrayFlight:
        """`count` empty rows for images of `shape` (C, H, W); see `jboost.engine.loop.runner.Runner.flight`."""
        return ArrayFlight(self, update_kind, controls, count, shape, rounding)

    def evaluate_images(self, images: Numpy, y: Numpy) -> Evaluation:
        """One forward pass on images uint8 [B, H, W, C] with classes `y` int64 [B]; numpy arrays."""
        evaluation = self.evaluate(to_float(self.put(images)), self.put(y))
        return Evaluation(*(self.get(a) for a in evaluation))


class ArrayFlight:
    """The images in flight as a `State` of arrays; see `jboost.engine.loop.flight.Flight`.

    Args:
        runner: computes the steps.
        update_kind: the update kind, a key of `jboost.engine.method.updates.MOVES`.
        controls: as numpy arrays.
        count: B, the number of rows.
        shape: (C, H, W) of an image.
        rounding: how images leave; see `jboost.engine.method.rounding`.
    """

    status_every = 1

    def __init__(
        self,
        runner: ArrayRunner,
        update_kind: str,
        controls: Controls,
        count: int,
        shape: tuple[int, int, int],
        rounding: str = NEAREST,
    ):
        self._runner, self._update_kind = runner, update_kind
        self._controls = Controls(*map(runner.put, controls))
        self._limit = limit_of(update_kind, float(controls.radius), rounding)
        # Copies, because rows are written in place when an image enters.
        self.state = State(*(runner.put(a.copy()) for a in empty_state(count, shape)))

    def admit(self, rows: Numpy, images: Numpy, y: Numpy, index: Numpy, limit: Numpy, numbers: Numpy) -> None:
        """Put images into rows and reset every field of these rows."""
        put, n = self._put, len(rows)
        where, x0 = put(rows), to_float(put(images))
        no, zero = put(np.zeros(n, np.bool_)), put(np.zeros(n, np.int64))
        entering = State(
            x=x0, x0=x0, y=put(y), number=put(numbers), limit=put(limit), steps=zero, moving=put(limit > 0), stopped=no,
            failed=no, waiting=no, retried=no, class_logit=put(np.zeros(n, np.float32)),
            before_logit=put(np.full(n, np.nan, np.float32)), before_predicted=zero, index=put(index),
        )  # fmt: skip
        for array, new in zip(self.state, entering, strict=True):
            array[where] = new

    def step(self) -> None:
        """One step of every moving row."""
        self.state = self._runner.step(self._update_kind, self.state, self._controls)

    def retry(self) -> None:
        """One step in float32 for the waiting rows."""
        self.state = self._runner.step(self._update_kind, self.state, self._controls, in_float32=True)

    def status(self, *, fresh: bool) -> RowStatus:
        """The status after the last step, whether `fresh` or not."""
        return RowStatus(**self._get({f.name: getattr(self.state, f.name) for f in fields(RowStatus)}))

    def collect(self, rows: Numpy) -> Finished:
        """The images in `rows`."""
        where = self._put(rows)
        s = State(*(array[where] for array in self.state))
        xp = namespace(s.x)
        # An image that never moved is returned bit for bit.
        untouched = s.failed | (s.steps == 0)
        images = _to_images(round_within(xp.where(per_image(untouched, s.x), s.x0, s.x), s.x0, self._limit))
        facts = {f.name: getattr(s, f.name) for f in fields(Finished) if f.name in State._fields}
        steps = xp.where(s.failed, xp.zeros_like(s.steps), s.steps)
        return Finished(
            **self._get(facts | {"images": images, "steps": steps, "moved": distances(to_float(images) - s.x0)})
        )

    def _put(self, array: Numpy) -> Array:
        return self._runner.put(array)

    def _get(self, arrays: dict[str, Array]) -> dict[str, Numpy]:
        return {name: self._runner.get(array) for name, array in arrays.items()}


def distances(moved: Array) -> Array:
    """L2 norm per image, [N, ...] -> [N], the same whether an image comes alone or with others.

    torch splits the sum of one long row among its threads, but gives each of several rows to one thread.
    """
    return l2_norm(namespace(moved).concat([moved, moved]))[:1] if len(moved) == 1 else l2_norm(moved)


def empty_state(count: int, shape: tuple[int, int, int]) -> State:
    """`count` empty rows, none of them moving, as numpy arrays that may share memory."""
    images, integers, flags = (count, *shape), np.zeros(count, np.int64), np.zeros(count, np.bool_)
    reals = np.zeros(count, np.float32)
    return State(
        x=np.zeros(images, np.float32), x0=np.zeros(images, np.float32), y=integers, number=integers, limit=integers,
        steps=integers, moving=flags, stopped=flags, failed=flags, waiting=flags, retried=flags, class_logit=reals,
        before_logit=reals, before_predicted=integers, index=integers,
    )  # fmt: skip


def to_float(images: Any) -> Any:
    """uint8 [N, H, W, C] in [0, 255] -> float32 [N, C, H, W] in [0, 1], on the same device."""
    xp = namespace(images)
    channels_first = xp.permute_dims(images, (0, 3, 1, 2))
    return xp.astype(channels_first, xp.float32, copy=True) / 255.0


def to_uint8(x: Any) -> Any:
    """float32 [N, C, H, W] -> uint8 [N, H, W, C]: clamp to [0, 1] (algorithm 3's last line), round to nearest."""
    return _to_images(round_within(x, x, Limit(NO_BALL, 0)))


def _to_images(levels: Any) -> Any:
    """Whole levels float32 [N, C, H, W] -> uint8 [N, H, W, C]."""
    xp = namespace(levels)
    return xp.permute_dims(xp.astype(levels, xp.uint8), (0, 2, 3, 1))
