"""The contract between the slots and a flight, which holds the images in flight: in arrays or in device buffers."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import numpy as np

Numpy = np.ndarray[Any, Any]


@dataclass(frozen=True)
class RowStatus:
    """The host's view of the rows: numpy arrays with one entry per row. It may be older than the last step queued.

    Attributes:
        index: int64 [B], the image that each row held, so a stale status is never attributed to another image.
        moving: bool [B], the row takes part in the next step.
        waiting: bool [B], the row's gradient was not finite and must be computed again in float32.
        steps: int64 [B], steps taken.
        limit: int64 [B], the maximum number of steps.
        class_logit: float32 [B], f_c where the gradient was last computed.
    """

    index: Numpy
    moving: Numpy
    waiting: Numpy
    steps: Numpy
    limit: Numpy
    class_logit: Numpy


@dataclass(frozen=True)
class Finished:
    """Images copied out of their rows because they have finished or a snapshot is due, as numpy arrays.

    Attributes:
        images: uint8 [n, H, W, C], whole levels as `jboost.engine.method.rounding` makes them; an image that never moved equals
            the input byte for byte.
        index: int64 [n], the host's keys of the images, as they were admitted.
        y: int64 [n], classes.
        steps: int64 [n], steps taken.
        stopped: bool [n], the image ended early because its realness reached l0.
        failed: bool [n], the gradient was not finite even in float32; the image is the input.
        retried: bool [n], a gradient was not finite and was computed again in float32.
        before_logit: float32 [n], f_c at the input; NaN if no gradient was computed (no steps).
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

    def select(self, which: Numpy) -> Self:
        """The images that `which` (bool or integers) selects."""
        return type(self)(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


class Flight(Protocol):
    """B rows; an image holds its row from its first to its last step. A row that is not moving never changes.

    Attributes:
        status_every: 1 if a status costs nothing, as on a CPU; otherwise the steps to queue between two calls of `status`
            where no image can stop early. Where images can, `jboost.engine.loop.pace` measures the best number.
    """

    status_every: int

    def admit(self, rows: Numpy, images: Numpy, y: Numpy, index: Numpy, limit: Numpy, numbers: Numpy) -> None:
        """Put images into rows and reset every field of these rows.

        Args:
            rows: int64 [n], each once.
            images: uint8 [n, H, W, C].
            y, index, limit, numbers: int64 [n]: class, the host's key of the image, maximum number of steps, and the
                number in [0, 2^63) that keys the image's noise.
        """
        ...

    def step(self) -> None:
        """Queue one step of every moving row. Does not wait for the device."""
        ...

    def retry(self) -> None:
        """Queue one step with gradients in float32 for the waiting rows; no other row moves."""
        ...

    def status(self, *, fresh: bool) -> RowStatus:
        """The status of the rows.

        Args:
            fresh: wait for the device and return the status after the last step queued; if False, the status may be an
                earlier one.
        """
        ...

    def collect(self, rows: Numpy) -> Finished:
        """The images in `rows` (int64 [n]) after every step queued so far. Waits for the device."""
        ...
