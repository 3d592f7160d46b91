"""The loop as the paper prints it: one image at a time, in numpy.

No engine runs it. The real loop, `jboost.engine.loop.run`, gives the same images. The tests compare the two, bit for
bit if an image's gradient does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jboost.engine.method.noise import normal, split_seed
from jboost.engine.method.objectives import realness
from jboost.engine.method.settings import Settings
from jboost.engine.method.step import Gradient
from jboost.engine.method.updates import PGD, SGLD, l2_norm, project_l2

Numpy = np.ndarray[Any, Any]


def boost_image(
    gradient: Callable[[Numpy, Numpy], Gradient],
    image: Numpy,
    label: int | None,
    settings: Settings,
    *,
    number: int = 0,
) -> tuple[Numpy, int]:
    """Algorithms 1 to 3 for one image.

    Args:
        gradient: the objective's gradient at x float32 [1, C, H, W] in [0, 1] for the class y int64 [1].
        image: uint8 [H, W, C].
        label: the image's class; None takes c = argmax f(x0), as in algorithm 1.
        settings: the update, early stopping and the seed.
        number: the image's number, which keys its noise.

    Returns:
        The image, uint8 [H, W, C], and the number of steps it took. If a gradient or class logit is not finite, the
        image comes back unchanged, after 0 steps.

    Raises:
        TypeError: the update is neither `PGD` nor `SGLD`.
    """
    x = x0 = np.ascontiguousarray(image.transpose(2, 0, 1))[np.newaxis] / np.float32(255)
    y = gradient(x0, np.array([0])).predicted if label is None else np.array([label])
    for step in range(settings.update.steps):
        grad, class_logit, _, _ = gradient(x, y)
        if settings.early_stop and np.isfinite(class_logit) and realness(class_logit) >= settings.l0:
            return _rounded(x, x0, settings), step
        if not np.isfinite(grad).all() or not np.isfinite(class_logit).all():
            return image, 0
        x = _moved(x, x0, grad, settings, number, step)
    return _rounded(x, x0, settings), settings.update.steps


def _moved(x: Numpy, x0: Numpy, grad: Numpy, settings: Settings, number: int, step: int) -> Numpy:
    """The next iterate."""
    update, size = settings.update, settings.update.step_size
    if isinstance(update, SGLD):  # algorithm 3
        noise = normal(x.shape[1:], key=split_seed(settings.seed), index=np.array([number]), step=np.array([step]))
        x = x - size * grad + update.noise * noise
    elif isinstance(update, PGD) and update.norm == "l2":  # algorithms 1 and 2: normalise, descend, clamp, project
        norm = l2_norm(grad)
        x = np.clip(x - size * (grad / norm if norm > 0 else grad), 0, 1)
        if update.eps is not None:
            x = project_l2(x, x0, update.eps)
    elif isinstance(update, PGD):  # the same with the sign of the gradient, and a cube as the ball
        x = np.clip(x - size * np.sign(grad), 0, 1)
        if update.eps is not None:
            x = np.where(abs(x - x0) > update.eps, x0 + update.eps * np.sign(x - x0), x)
    else:
        raise TypeError(f"the paper has no {update.name}")
    return x


def _rounded(x: Numpy, x0: Numpy, settings: Settings) -> Numpy:
    """uint8 [H, W, C] from the iterate: clamped (algorithm 3's last line), rounded to nearest, and inside the ball."""
    update = settings.update
    scaled, start = 255 * np.clip(x[0], 0, 1), np.rint(255 * x0[0])
    levels = np.rint(scaled)
    if settings.rounding == "floor":  # as the released script writes
        levels = np.where(x[0] == x0[0], start, np.floor(scaled))
    if isinstance(update, PGD) and update.eps is not None:
        most = 255 * float(np.float32(update.eps)) * (1 + 1e-6)
        if update.norm == "linf":
            levels = np.clip(levels, start - most // 1, start + most // 1)
        for k in range(1, 513):
            if update.norm == "linf" or ((levels - start).astype(np.float64) ** 2).sum() <= most**2:
                break
            moved = scaled - start  # rounded with a higher threshold: 1/2 + k/512
            levels = start + np.sign(moved) * np.floor(np.maximum(abs(moved) + np.float32(0.5 - k / 512), 0))
    image: Numpy = levels.astype(np.uint8).transpose(1, 2, 0)
    return image
