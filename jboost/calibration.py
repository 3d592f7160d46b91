"""``--step-size auto``: the gradient's length is measured on some images of the set, and the step size follows from it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jboost.engine.backends.array_runner import to_float
from jboost.engine.errors import FailureError
from jboost.engine.loop.pipeline import Reader
from jboost.engine.loop.run import predicted_classes
from jboost.engine.loop.runner import Runner
from jboost.engine.method.auto_step import in_levels, steeper_objective, step_size_for
from jboost.engine.method.objectives import realness
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import Update, l2_norm
from jboost.out_of_memory import out_of_memory

Numpy = np.ndarray[Any, Any]

#: The most images of the probe, and the most shards that they come from.
PROBE, PROBED_SHARDS = 128, 8
# Shorter gradients are rounding errors: a step size for them would be no number.
_TINY = 1e-25

_log = logging.getLogger("jboost")


class Probed(NamedTuple):
    """Some images of a run: `positions` int64 [n], ascending; `read` gives them as uint8 [n, H, W, C]; `labels` int64 [N], or None
    for the model's predictions."""

    read: Reader
    labels: Numpy | None
    positions: Numpy


def calibrated(
    runner: Runner,
    settings: Settings,
    parts: Iterable[Probed],
    batch_size: int,
    *,
    begun: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings with the step size that `Settings.first_step` asks for; unchanged if it asks for none.

    Args:
        runner: the engine.
        settings: the run's settings.
        parts: the probe, see `probe_of`; not asked for if nothing is to be measured.
        batch_size: images in flight.
        begun: the identity of the run to go on with, whose step size is kept if it was set for the same length.

    Raises:
        FailureError: the gradients give no step size, or the device's memory does not suffice.
    """
    length = settings.first_step
    if length is None:
        return settings
    kept = kept_step_size(begun, settings)
    if kept is not None:
        return with_step_size(settings, kept)
    with out_of_memory(batch_size, f"take a smaller batch, such as -b {max(1, batch_size // 2)}, or --device cpu"):
        norms, realnesses, values = _gradient_norms(runner, parts, batch_size)
    finite = norms[np.isfinite(norms)]
    if settings.early_stop and settings.l0 is not None:
        # An image that has reached l0 takes no step; if all have, any length will do.
        going = norms[np.isfinite(norms) & (realnesses < settings.l0)]
        finite = going if len(going) else finite
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
            f"so no step size moves them; choose another objective, such as --objective {steeper_objective(settings.objective)}"
        )
    step_size = step_size_for(length, values, mean)
    _log.info(
        f"step size auto: {step_size:g}, so the first step changes a value by {in_levels(length)} (RMS, mean of "
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


def probe_of(read: Reader, labels: Numpy | None, images: int, most: int = PROBE) -> Probed:
    """At most `most` of a set's images, evenly spaced, because sets are often sorted by class."""
    return Probed(read, labels, evenly(images, most))


def evenly(count: int, most: int) -> Numpy:
    """At most `most` of `count` positions, evenly spaced: int64 [n], ascending."""
    taken = min(count, most)
    return (2 * np.arange(taken, dtype=np.int64) + 1) * count // (2 * max(taken, 1))


def _gradient_norms(runner: Runner, parts: Iterable[Probed], batch_size: int) -> tuple[Numpy, Numpy, int]:
    """L2 norm of the objective's gradient at each image, float64 [n], not finite where the class logit is not; realness [n]; and
    the number of an image's values."""
    norms, logits, values = [np.zeros(0)], [np.zeros(0)], 0
    for read, labels, positions in parts:
        size = batch_size if runner.batch_size else min(batch_size, max(1, len(positions)))
        for start in range(0, len(positions), size):
            at = positions[start : start + size]
            images = read(at)
            y = predicted_classes(runner, images, size) if labels is None else labels[at]
            padded = np.minimum(np.arange(size), len(at) - 1)  # repeats the last image
            gradient = runner.gradient(runner.put(to_float(images)[padded]), runner.put(y[padded]))
            grad, logit = (runner.get(a)[: len(at)] for a in (gradient.grad, gradient.class_logit))
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is left out
                norms.append(np.where(np.isfinite(logit), l2_norm(grad.astype(np.float64)), np.nan))
            logits.append(logit)
            values = math.prod(images.shape[1:])
    return np.concatenate(norms), realness(np.concatenate(logits)), values
