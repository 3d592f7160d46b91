"""The path of every image of a set, step by step: what `jboost boost` does, with the gradient's turns and counts beside it.

`jboost boost` gives the images after some numbers of steps, but not the gradients between them. The path here uses the same
runner, the same moves and the same rounding; a test compares the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from jboost.engine.backends.array_runner import to_float, to_uint8
from jboost.engine.method.objectives import realness
from jboost.engine.method.step import Gradient
from jboost.engine.method.updates import Update, l2_norm

Array = np.ndarray[Any, Any]
_BATCH = 32


class Network(Protocol):
    """Gives the objective's gradient, as `jboost.engine.backends.array_runner.ArrayRunner` does on numpy arrays."""

    def gradient(self, x: Array, y: Array) -> Gradient:
        """For `x` float32 [B, C, H, W] and classes `y` int64 [B]."""
        ...


@dataclass(frozen=True)
class Trajectory:
    """The paths of N images over K steps.

    Attributes:
        levels: K + 1 arrays uint8 [N, H, W, C]: the images that a run of 0, 1, ..., K steps gives.
        gradients: int64 [K + 1, N], the gradients that such a run computes for each image. An image that stops early needs
            one to see that it has arrived.
        norms: float32 [N], length of the first gradient.
        cosines: float32 [K, N], row k between the gradients before and after step k; NaN where there is no second one.
    """

    levels: list[Array]
    gradients: Array
    norms: Array
    cosines: Array


def follow(
    network: Network, images: Array, labels: Array, update: Update, *, threshold: float = math.inf
) -> Trajectory:
    """Follow every image for ``update.steps`` steps.

    Args:
        network: see `Network`.
        images, labels: uint8 [N, H, W, C] and int64 [N].
        update: the rule, without noise.
        threshold: the realness at which an image stops; infinity for no early stopping.
    """
    x0 = to_float(images)
    x, count, steps = x0.copy(), len(images), update.steps
    before = np.zeros_like(x0)
    moving = np.ones(count, bool)
    gradients = np.zeros((steps + 1, count), np.int64)
    norms, cosines = np.zeros(count, np.float32), np.full((steps, count), np.nan, np.float32)
    levels = [images]
    for step in range(steps):
        rows = np.flatnonzero(moving)
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            found = network.gradient(*_padded(x[part], labels[part]))
            grad, logit = np.array(found.grad[: len(part)]), found.class_logit[: len(part)]
            if step == 0:
                norms[part] = l2_norm(grad)
            else:
                cosines[step - 1, part] = cosine(before[part], grad)
            before[part] = grad
            moving[part] = ~(realness(logit) >= threshold)
            number = np.zeros(len(part), np.int64)
            moved = update.move(x[part], x0[part], grad, index=number, step=number)
            x[part] = np.where(moving[part][:, None, None, None], moved, x[part])
        gradients[step + 1] = gradients[step]
        gradients[step + 1, rows] += 1
        levels.append(to_uint8(x))
    return Trajectory(levels, gradients, norms, cosines)


def cosine(a: Array, b: Array) -> Array:
    """Of the angle between vectors [N, ...]: [N]; 0 if one of them vanishes."""
    product = (a * b).reshape(len(a), -1).sum(1)
    lengths = l2_norm(a) * l2_norm(b)
    return np.where(lengths > 0, product / np.where(lengths > 0, lengths, 1), 0)


def _padded(x: Array, y: Array) -> tuple[Array, Array]:
    """Whole batches only: ONNX Runtime keeps buffers for each size that it meets."""
    missing = _BATCH - len(x)
    if missing == 0:
        return x, y
    return np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]), np.concatenate(
        [y, np.zeros(missing, y.dtype)]
    )
