"""Gradients at some images of a run, before it begins, and how far they keep their direction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jboost.engine.backends.array_runner import to_float
from jboost.engine.loop.pipeline import Reader
from jboost.engine.loop.run import predicted_classes
from jboost.engine.loop.runner import Runner
from jboost.engine.method.updates import l2_norm

Numpy = np.ndarray[Any, Any]
#: (images, gradients) float32 [n, C, H, W] -> the images after a step.
Step = Callable[[Numpy, Numpy], Numpy]

#: The most images of a probe, and the most shards that they come from.
PROBE, PROBED_SHARDS = 128, 8


class Probed(NamedTuple):
    """Some images of a run: `positions` int64 [n], ascending; `read` gives them as uint8 [n, H, W, C]; `labels` int64 [N], or None
    for the model's predictions."""

    read: Reader
    labels: Numpy | None
    positions: Numpy


class Start(NamedTuple):
    """A batch of a probe before its first step: x, grad float32 [n, C, H, W]; y int64 [n]; class_logit float32 [n].

    `size` is the number of images that the engine takes at once, at least n.
    """

    x: Numpy
    y: Numpy
    grad: Numpy
    class_logit: Numpy
    size: int


def probe_of(read: Reader, labels: Numpy | None, images: int, most: int = PROBE) -> Probed:
    """At most `most` of a set's images, evenly spaced, because sets are often sorted by class."""
    return Probed(read, labels, evenly(images, most))


def evenly(count: int, most: int) -> Numpy:
    """At most `most` of `count` positions, evenly spaced: int64 [n], ascending."""
    taken = min(count, most)
    return (2 * np.arange(taken, dtype=np.int64) + 1) * count // (2 * max(taken, 1))


def starts(runner: Runner, parts: Iterable[Probed], batch_size: int) -> Iterator[Start]:
    """The batches of a probe, with the objective's gradients at them; `batch_size` images in flight."""
    for read, labels, positions in parts:
        size = batch_size if runner.batch_size else min(batch_size, max(1, len(positions)))
        for first in range(0, len(positions), size):
            at = positions[first : first + size]
            images = read(at)
            y = predicted_classes(runner, images, size) if labels is None else labels[at]
            x = to_float(images)
            yield Start(x, y, *_gradient(runner, x, y, size), size)


def gradient_norms(start: Start) -> Numpy:
    """L2 norm of the gradient at each image, float64 [n]; not finite where the class logit is not."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is left out
        return np.where(np.isfinite(start.class_logit), l2_norm(start.grad.astype(np.float64)), np.nan)


def cosines(runner: Runner, batches: Sequence[Start], step: Step) -> Numpy:
    """The cosine between the gradients before and after a step of each image, float64 [n].

    It is 0 where the gradient has vanished, and NaN where a gradient is not finite.
    """
    found = [np.zeros(0)]
    for start in batches:
        after, _ = _gradient(runner, step(start.x, start.grad), start.y, start.size)
        with np.errstate(invalid="ignore", over="ignore"):
            directions = _direction(start.grad) * _direction(after)
            found.append(directions.reshape(len(directions), -1).sum(axis=1))
    return np.concatenate(found)


def _direction(grad: Numpy) -> Numpy:
    grad = grad.astype(np.float64)
    norm = l2_norm(grad)[:, None, None, None]
    return np.asarray(grad / np.where(norm == 0, 1.0, norm))


def _gradient(runner: Runner, x: Numpy, y: Numpy, size: int) -> tuple[Numpy, Numpy]:
    """Copies of the gradient and the class logit: an engine may use its buffers again."""
    padded = np.minimum(np.arange(size), len(x) - 1)  # repeats the last image
    gradient = runner.gradient(runner.put(x[padded]), runner.put(y[padded]))
    grad, logit = (np.array(runner.get(a)[: len(x)]) for a in (gradient.grad, gradient.class_logit))
    return grad, logit
