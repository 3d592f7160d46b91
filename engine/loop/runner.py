"""The contract between the loop and a backend: what an engine has to implement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np

from jboost.engine.method.arrays import Array

if TYPE_CHECKING:
    from jboost.engine.method.updates import Controls

    from .flight import Flight


class Evaluation(NamedTuple):
    """The model's results for a batch: `class_logit` float32 [B], f_c; `predicted` int64 [B], argmax of the logits."""

    class_logit: Array
    predicted: Array


class Runner(Protocol):
    """A bundle and an objective on one backend. A context manager: leaving it frees the device's memory.

    Attributes:
        name: the engine's, as in ``--engine``.
        device: a device string.
        dtype: the network's: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        batch_size: the number of images that every call takes; None if any number will do.
    """

    name: str
    device: str
    dtype: str
    batch_size: int | None

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...

    def evaluate_images(self, images: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> Evaluation:
        """One forward pass on images uint8 [B, H, W, C] with classes `y` int64 [B]; numpy arrays."""
        ...

    def check_update(self, update_kind: str) -> None:
        """See that there is a step for a kind of update, before a run begins.

        Raises:
            BadInputError: there is none.
        """
        ...

    def flight(self, update_kind: str, controls: Controls, count: int, shape: tuple[int, int, int]) -> Flight:
        """Empty rows for images in flight, which `step` moves as `update_kind` and `controls` say.

        Args:
            update_kind: a key of `jboost.engine.method.updates.MOVES`.
            controls: as numpy arrays.
            count: the number of rows; `batch_size`, if that is fixed.
            shape: (C, H, W) of an image.
        """
        ...
