"""``--step-size auto``: gradients are measured on some images of the set, and the step size follows from them."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jboost.engine.errors import FailureError
from jboost.engine.loop.runner import Runner
from jboost.engine.method.auto_step import (
    LENGTHS,
    LEVELS,
    Aim,
    in_levels,
    rounded,
    steeper_objective,
    step_size_for,
    straight_length,
)
from jboost.engine.method.objectives import realness
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import MOVES, Update
from jboost.out_of_memory import out_of_memory
from jboost.probing import Numpy, Probed, Start, cosines, gradient_norms, starts

# Shorter gradients are rounding errors: a step size for them would be no number.
_TINY = 1e-25
# Steps above which the cosine that is asked for is hard to reach for any model.
_MANY = 20

_log = logging.getLogger("jboost")


class _Measured(NamedTuple):
    """A probe: a mask bool [n] of the images that count, the gradients' mean L2 norm, the number of an image's values, and the
    batches if steps are to be tried."""

    counted: Numpy
    mean_norm: float
    values: int
    batches: Sequence[Start]


def calibrated(
    runner: Runner,
    settings: Settings,
    parts: Iterable[Probed],
    batch_size: int,
    *,
    begun: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings with the step size that `Settings.aim` asks for; unchanged if it asks for none.

    Args:
        runner: the engine.
        settings: the run's settings.
        parts: the probe, see `jboost.probing.probe_of`; not asked for if nothing is to be measured.
        batch_size: images in flight.
        begun: the identity of the run to go on with, whose step size is kept if it was set for the same aim.

    Raises:
        FailureError: the gradients give no step size, or the device's memory does not suffice.
    """
    if settings.aim == Aim():
        return settings
    kept = kept_step_size(begun, settings)
    if kept is not None:
        return with_step_size(settings, kept)
    with out_of_memory(batch_size, f"take a smaller batch, such as -b {max(1, batch_size // 2)}, or --device cpu"):
        probe = _measured(runner, settings, parts, batch_size)
        step_size, why = (
            _by_length(settings, probe) if settings.straightness is None else _by_straightness(runner, settings, probe)
        )
    _log.info(f"step size auto: {step_size:g}, {why}")
    return with_step_size(settings, step_size)


def kept_step_size(begun: Mapping[str, Any] | None, settings: Settings) -> float | None:
    """The step size of a run that was begun with the same aim; None if there is none."""
    aim = settings.aim
    if begun is None or aim == Aim() or Aim(*map(begun.get, Aim._fields)) != aim:
        return None
    value = begun.get("step_size")
    return float(value) if isinstance(value, float) and 0 < value < math.inf else None


def with_step_size(settings: Settings, step_size: float) -> Settings:
    """The settings with another step size."""
    update: Update = settings.update
    return replace(settings, update=replace(update, step_size=step_size))  # type: ignore[type-var]


def _measured(runner: Runner, settings: Settings, parts: Iterable[Probed], batch_size: int) -> _Measured:
    """Measure the probe; images that take no step and gradients that are not finite do not count."""
    found, logits, values, batches = [np.zeros(0)], [np.zeros(0)], 0, []
    for start in starts(runner, parts, batch_size):
        found.append(gradient_norms(start))
        logits.append(start.class_logit)
        values = math.prod(start.x.shape[1:])
        batches += [start] if settings.straightness is not None else []
    norms = np.concatenate(found)
    counted = np.isfinite(norms)
    if settings.early_stop and settings.l0 is not None:
        # An image that has reached l0 takes no step; if all have, any length will do.
        going = counted & (realness(np.concatenate(logits)) < settings.l0)
        counted = going if going.any() else counted
    if not counted.any():
        low = "" if runner.dtype == "fp32" else " or take --dtype fp32"
        raise FailureError(
            f"--step-size auto: no gradient of objective {settings.objective} is finite at the {len(norms)} images of the "
            f"probe; check the bundle with jboost verify{low}"
        )
    mean = float(norms[counted].mean())
    if mean < _TINY:
        raise FailureError(
            f"--step-size auto: the gradient of objective {settings.objective} is zero at the {len(norms)} images of the probe, "
            f"so no step size moves them; choose another objective, such as --objective {steeper_objective(settings.objective)}"
        )
    return _Measured(counted, mean, values, batches)


def _by_length(settings: Settings, probe: _Measured) -> tuple[float, str]:
    """The step size for a first step of a stated length, and why."""
    length, values = settings.first_step, probe.values
    assert length is not None
    step_size = settings.update.step_size_for(length / LEVELS, values)
    why = f"so the first step changes a value by {in_levels(length)} (RMS"
    if step_size is not None:
        return rounded(step_size), f"{why})"
    why += f", mean of {int(probe.counted.sum()):,} images); the gradient's mean length is {probe.mean_norm:.3g}"
    return step_size_for(length, values, probe.mean_norm), why


def _by_straightness(runner: Runner, settings: Settings, probe: _Measured) -> tuple[float, str]:
    """The step size for steps over which the gradient keeps its direction, and why."""
    update, straightness = settings.update, settings.straightness
    assert straightness is not None

    def size_of(length: float) -> float:
        size = update.step_size_for(length / LEVELS, probe.values)
        assert size is not None
        return size

    def cosine(length: float) -> float:
        # The model's straightness, so no ball and no noise; the step clamps as in a run.
        controls = with_step_size(settings, size_of(length)).update.controls()
        how = controls._replace(radius=np.array(np.inf, np.float32), noise=np.array(0, np.float32))

        def step(x: Numpy, grad: Numpy) -> Numpy:
            zero = np.zeros(len(x), np.int64)
            grad = np.where(np.isfinite(grad), grad, np.float32(0))  # such images do not count
            return np.asarray(MOVES[update.kind](x, x, grad, zero, zero, how))

        found = cosines(runner, probe.batches, step)[probe.counted]
        found = found[np.isfinite(found)]
        return float(np.median(found)) if len(found) else 0.0

    length, reached = straight_length(cosine, straightness)
    if not 0 < length < math.inf:
        raise FailureError(f"--step-size auto: {_no_length(settings, length)}")
    return rounded(size_of(length)), (
        f"a step of {length:.2g} grey levels (RMS), over which the gradient's direction keeps a cosine of {reached:.3g} "
        f"(median of {_counted(int(probe.counted.sum()), 'image')}; {straightness:g} for {_counted(update.steps, 'step')})"
    )


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _no_length(settings: Settings, length: float) -> str:
    """Why no length of a step has the cosine, and what to do."""
    update, gradient = settings.update, f"the gradient of objective {settings.objective}"
    number = f"give a number, such as --step-size {type(update).step_size:g}"
    if length:
        return f"{gradient} keeps its direction over steps of {in_levels(LENGTHS[-1])} (RMS), so it bounds no length; {number}"
    turns = (
        f"{gradient} turns within a step of {in_levels(LENGTHS[0])} (RMS) by more than {update.steps} steps may, to a cosine below "
        f"{settings.straightness:g}"
    )
    if update.steps > _MANY:
        return f"{turns}; take fewer steps, such as --steps 4, or {number}"
    return f"{turns}; is the model robust? To go on, {number}"
