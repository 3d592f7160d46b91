"""The contract between the loop and a backend: the interface that every engine implements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np

from jboost.engine.method.arrays import Array
from jboost.engine.method.rounding import NEAREST

if TYPE_CHECKING:
    from jboost.engine.method.step import Gradient
    from jboost.engine.method.updates import Controls

    from .flight import Flight


class Evaluation(NamedTuple):
    """The model's results for a batch: `class_logit` float32 [B], f_c; `predicted` int64 [B], argmax of the logits."""

    class_logit: Array
    predicted: Array


class Runner(Protocol):
    """A bundle and an objective on one backend. A context manager: leaving it frees the device memory.

    Attributes:
        name: the engine's name, as in ``--engine``.
        device: a device string.
        dtype: the network's dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        batch_size: the number of images that every call takes; None if any number works.
    """

    name: str
    device: str
    dtype: str
    batch_size: int | None

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def put(self, array: np.ndarray[Any, Any]) -> Array:
        """`array` as `gradient` takes it."""
        ...

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        """An array of a `Gradient` as numpy."""
        ...

    def gradient(self, x: Array, y: Array) -> Gradient:
        """The objective's gradient for `x` float32 [B, C, H, W] in [0, 1], classes `y` int64 [B].

        It serves measurements, such as a probe before the run; images in flight are moved by `Flight.step`.
        """
        ...

    def evaluate_images(self, images: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> Evaluation:
        """One forward pass on images uint8 [B, H, W, C] with classes `y` int64 [B]; numpy arrays."""
        ...

    def check_update(self, update_kind: str) -> None:
        """Check that there is a step for an update kind, before a run begins.

        Raises:
            BadInputError: there is none.
        """
        ...

    def flight(
        self, update_kind: str, controls: Controls, count: int, shape: tuple[int, int, int], rounding: str = NEAREST
    ) -> Flight:
        """Empty rows for images in flight, which the flight's `step` moves by `update_kind` and `controls`.

        Args:
            update_kind: the update kind, a key of `jboost.engine.method.updates.MOVES`.
            controls: as numpy arrays.
            count: the number of rows; equal to `batch_size` if that is fixed.
            shape: (C, H, W) of an image.
            rounding: how images leave; see `jboost.engine.method.rounding`.
        """
        ...
