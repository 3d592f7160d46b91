"""The loop of algorithms 1 to 3, for one batch of images.

Three independent choices meet here: the objective (inside the runner), the update, and the backend (the runner). An image's
trajectory depends on that image alone: nothing below mixes rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array, namespace, per_image
from .objectives import realness
from .presets import Settings
from .runner import Evaluation, Runner

#: Called after each step with {"step": number of steps done, "steps": the most, "x": iterate, "realness": float32 [B]}.
StepCallback = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Trajectory:
    """How a batch went, as numpy arrays.

    Attributes:
        x: float32 [B, C, H, W] in [0, 1], the last iterate.
        steps: int32 [B], steps that the image took.
        stopped: bool [B], ended early because its realness reached l0.
        failed: bool [B], its gradient was not finite even in float32; `x` is the input.
        retried: bool [B], a low-precision gradient was not finite and was computed again in float32.
        before: class logit and prediction at the input.
    """

    x: np.ndarray[Any, Any]
    steps: np.ndarray[Any, Any]
    stopped: np.ndarray[Any, Any]
    failed: np.ndarray[Any, Any]
    retried: np.ndarray[Any, Any]
    before: Evaluation


def boost_batch(
    runner: Runner,
    x0: Array,
    y: Array,
    settings: Settings,
    *,
    index: Array,
    on_step: StepCallback | None = None,
) -> Trajectory:
    """Move a batch along the objective's gradients.

    Args:
        runner: computes the gradients.
        x0: float32 [B, C, H, W] in [0, 1], the images, on the runner's device.
        y: int64 [B], their classes.
        settings: update, early stopping, l0 and seed.
        index: int64 [B], each image's position in its set; it keys the noise.
        on_step: called after each step.
    """
    xp = namespace(x0)
    update = settings.update
    x = x0
    steps = xp.zeros_like(y)
    stopped = failed = retried = xp.zeros_like(y, dtype=xp.bool)
    before: Evaluation | None = None

    for t in range(update.steps):
        g = runner.gradient(x, y)
        finite = _finite(g.grad)
        if runner.dtype != "fp32" and not bool(xp.all(finite | stopped | failed)):
            # One image that overflows half precision must not cost the others anything: they keep their gradients.
            retried = retried | ~(finite | stopped | failed)
            precise = runner.gradient(x, y, precise=True)
            # "before" may be what overflowed, so all four outputs are replaced, row by row.
            g = type(g)(*(xp.where(per_image(finite, a), a, b) for a, b in zip(g, precise, strict=True)))
            finite = _finite(g.grad)
        before = before or Evaluation(g.class_logit, g.predicted)
        if settings.early_stop:
            stopped = stopped | (~failed & (realness(g.class_logit) >= settings.l0))
        failed = failed | ~(finite | stopped)
        moving = ~(stopped | failed)
        if settings.early_stop and not bool(xp.any(moving)):
            break
        moved = update.move(x, x0, g.grad, seed=settings.seed, index=index, step=t)
        x = xp.where(per_image(moving, x), moved, x)
        steps = steps + xp.astype(moving, steps.dtype)
        if on_step is not None:
            on_step({"step": t + 1, "steps": update.steps, "x": x, "realness": realness(g.class_logit)})

    before = before or runner.evaluate(x0, y)
    # Images that never moved come back as they were, to the bit.
    untouched = failed | (steps == 0)
    x = xp.where(per_image(untouched, x), x0, update.finish(x))
    get = runner.get
    return Trajectory(
        x=get(x),
        steps=np.where(get(failed), 0, get(steps)).astype(np.int32),
        stopped=get(stopped),
        failed=get(failed),
        retried=get(retried),
        before=Evaluation(get(before.class_logit), get(before.predicted)),
    )


def _finite(grad: Array) -> Array:
    """Which images' gradients are finite throughout: [B, ...] -> bool [B]."""
    xp = namespace(grad)
    return xp.all(xp.reshape(xp.isfinite(grad), (grad.shape[0], -1)), axis=1)
