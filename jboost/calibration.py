"""``--step-size auto``: the gradient's length is measured on some images of the set, and the step size follows from it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from jboost.engine.backends.array_runner import to_float
from jboost.engine.errors import FailureError
from jboost.engine.loop.pipeline import Reader
from jboost.engine.loop.run import predicted_classes
from jboost.engine.loop.runner import Runner
from jboost.engine.method.auto_step import step_size_for
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import Update, l2_norm

Numpy = np.ndarray[Any, Any]

#: The most images of the probe.
PROBE = 128
# Shorter gradients are rounding errors: a step size for them would be no number.
_TINY = 1e-25

_log = logging.getLogger("jboost")


def calibrated(
    runner: Runner,
    settings: Settings,
    read: Reader,
    labels: Numpy | None,
    images: int,
    batch_size: int,
    *,
    begun: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings with the step size that `Settings.first_step` asks for; unchanged if it asks for none.

    Args:
        runner: the engine.
        settings: the run's settings.
        read: reads images uint8 [n, H, W, C] at ascending positions.
        labels: int64 [N], or None for the model's predictions.
        images: N.
        batch_size: images in flight, of which a set of fewer images has no use if the runner takes any number.
        begun: the identity of the run to go on with, whose step size is kept if it was set for the same length.

    Raises:
        FailureError: the gradients give no step size, or the device's memory does not suffice.
    """
    length = settings.first_step
    if length is None or not images:
        return settings
    kept = kept_step_size(begun, settings)
    if kept is not None:
        return with_step_size(settings, kept)
    if runner.batch_size is None:
        batch_size = min(batch_size, images)
    try:
        probe = probe_positions(images)
        norms, values = _gradient_norms(runner, read, labels, probe, batch_size)
    except Exception as e:
        # Match torch's class by name: an engine without torch must not import it for this check.
        if type(e).__name__ != "OutOfMemoryError":
            raise
        raise FailureError(
            f"out of GPU memory with {batch_size} images in flight; take a smaller batch: -b {max(1, batch_size // 2)}"
        ) from e
    finite = norms[np.isfinite(norms)]
    if not len(finite):
        low = "" if runner.dtype == "fp32" else " or take --dtype fp32"
        raise FailureError(
            f"--step-size auto: no gradient of objective {settings.objective} is finite at the {len(norms)} images of the "
            f"probe; check the bundle with jboost verify{low}"
        )
    mean = float(finite.mean())
    if mean < _TINY:
        raise FailureError(
            f"--step-size auto: the gradient of objective {settings.objective} is zero at the {len(norms)} images of the probe, "
            "so no step size moves them; choose another objective, such as --objective logit"
        )
    step_size = step_size_for(length, values, mean)
    _log.info(
        f"step size auto: {step_size:g}, so the first step changes a value by {length:g} grey levels (RMS, mean of "
        f"{len(finite):,} images); the gradient's mean length is {mean:.3g}"
    )
    return with_step_size(settings, step_size)


def kept_step_size(begun: Mapping[str, Any] | None, settings: Settings) -> float | None:
    """The step size of a run that was begun with the same length; None if there is none."""
    if begun is None or settings.first_step is None or begun.get("first_step") != settings.first_step:
        return None
    value = begun.get("step_size")
    return float(value) if isinstance(value, float) and 0 < value < math.inf else None


def with_step_size(settings: Settings, step_size: float) -> Settings:
    """The settings with another step size."""
    update: Update = settings.update
    return replace(settings, update=replace(update, step_size=step_size))  # type: ignore[type-var]


def probe_positions(images: int) -> Numpy:
    """Positions evenly spaced over a set of `images`, int64 [n], ascending: sets are often sorted by class."""
    count = min(images, PROBE)
    return (2 * np.arange(count, dtype=np.int64) + 1) * images // (2 * count)


def _gradient_norms(
    runner: Runner, read: Reader, labels: Numpy | None, positions: Numpy, batch_size: int
) -> tuple[Numpy, int]:
    """L2 norm of the objective's gradient at each image, float64 [n], not finite where the class logit is not; and the number
    of an image's values."""
    norms, values = [], 0
    for start in range(0, len(positions), batch_size):
        at = positions[start : start + batch_size]
        images = read(at)
        y = predicted_classes(runner, images, batch_size) if labels is None else labels[at]
        padded = np.minimum(np.arange(batch_size), len(at) - 1)  # repeats the last image
        gradient = runner.gradient(runner.put(to_float(images)[padded]), runner.put(y[padded]))
        grad, logit = (runner.get(a)[: len(at)] for a in (gradient.grad, gradient.class_logit))
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is left out
            norms.append(np.where(np.isfinite(logit), l2_norm(grad.astype(np.float64)), np.nan))
        values = int(np.prod(images.shape[1:]))
    return np.concatenate(norms), values
