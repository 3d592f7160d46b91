"""The contract between the loop and a backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np

from jboost.engine.method.arrays import Array
from jboost.engine.method.step import Gradient

if TYPE_CHECKING:
    from jboost.engine.method.updates import Controls

    from .flight import Flight


class Evaluation(NamedTuple):
    """What the model says of a batch: `class_logit` float32 [B], `predicted` int64 [B]."""

    class_logit: Array
    predicted: Array


class Runner(Protocol):
    """One backend's way to run a bundle with one objective. A context manager: leaving it frees the device's memory.

    Arrays are the backend's own (numpy, torch, ...); `x` float32 [B, C, H, W] in the image's range [0, 1], `y` int64 [B].
    """

    name: str
    device: str
    dtype: str
    #: The number of images that every call takes; None where any will do.
    batch_size: int | None

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def put(self, array: np.ndarray[Any, Any]) -> Array:
        """`array` on the runner's device."""
        ...

    def get(self, array: Array) -> np.ndarray[Any, Any]:
        """`array` as numpy."""
        ...

    def gradient(self, x: Array, y: Array, *, precise: bool = False) -> Gradient:
        """One forward and backward pass; `precise` runs it in float32 whatever the runner's dtype."""
        ...

    def evaluate_images(self, images: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> Evaluation:
        """One forward pass on images uint8 [B, H, W, C] with classes `y` int64 [B]; the answer as numpy arrays."""
        ...

    def check_update(self, kind: str) -> None:
        """See that there is a step for a kind of update, before a run begins.

        Raises:
            BadInputError: there is none.
        """
        ...

    def flight(self, kind: str, controls: Controls, count: int, shape: tuple[int, int, int]) -> Flight:
        """Empty rows for images in flight.

        Args:
            kind: of update, a key of `jboost.engine.method.updates.MOVES`.
            controls: as numpy arrays.
            count: the number of rows; the batch size, where that is fixed.
            shape: (C, H, W) of an image.
        """
        ...
