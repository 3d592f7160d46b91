"""A run that hardly moved its images says so, why, and what to raise.

The measure is the mean over images of the root mean square of an image's changes, in grey levels. It follows from the mean L2
distance that every summary has, and a step's length is stated in the same unit; see `jboost.engine.method.auto_step`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

from jboost.engine.method.auto_step import DEFAULT_FIRST_STEP, LEVELS, for_a_stream, steeper_objective
from jboost.engine.method.rounding import FLOOR
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import UPDATES

#: A run that moved its images less than this many grey levels in the mean says so.
LITTLE = 1.0
# What a remedy aims at: the steps are not all in one direction, and rounding drops changes below half a level.
_ENOUGH = 3.0
# The mean square of a fraction that is cut off, in grey levels: fractions are spread evenly.
_CUT = 1 / 3

_log = logging.getLogger("jboost")


def warn_if_little_moved(summary: Mapping[str, Any], values: int, *, stream: bool = False) -> None:
    """Log `why_little_moved`, if there is something to say."""
    if (why := why_little_moved(summary, values, stream=stream)) is not None:
        _log.warning("%s", why)


class MovedTally:
    """What `why_little_moved` needs, counted image by image in a run that has no summary."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._images = self._steps = self._stopped = self._failed = 0
        self._l2 = 0.0

    def add(self, l2: float, *, steps: int, stopped: bool, failed: bool) -> None:
        """Count an image that has moved by `l2`, in units of the image's range [0, 1]."""
        self._images += 1
        self._steps += steps
        self._stopped += stopped
        self._failed += failed
        self._l2 += l2

    def warn(self, values: int) -> None:
        """Log `why_little_moved` of the images so far, if there is something to say."""
        settings, images = self._settings, max(self._images, 1)
        update = {name: getattr(settings.update, name, None) for name in ("steps", "step_size", "eps", "norm", "noise")}
        run = {
            "images": self._images, "steps_used": self._steps / images, "stopped_early": self._stopped,
            "unchanged_after_failure": self._failed, "l2_moved": self._l2 / images, "update": settings.update.name,
            "objective": settings.objective, "early_stop": settings.early_stop, **settings.aim._asdict(),
            "rounding": settings.rounding,
        }  # fmt: skip
        warn_if_little_moved(run | update, values, stream=True)


def why_little_moved(summary: Mapping[str, Any], values: int, *, stream: bool = False) -> str | None:
    """Why a run moved its images by less than a grey level in the mean, and the remedy.

    What the noise and the cutting off of fractions add to the distance does not count.

    Args:
        summary: `jboost.engine.results.summary.Summary.to_dict`.
        values: the number of an image's values, H x W x C.
        stream: whether the images were a stream's, which takes other remedies.

    Returns:
        None if it moved them further; if it took no steps; if most images failed, which the summary says; or if the user's
        radius allows no more.
    """
    s = summary
    tried = s["images"] - s["unchanged_after_failure"]
    if not s["steps"] or tried <= 0 or 2 * tried < s["images"] or not values:
        return None
    unit = LEVELS / math.sqrt(values)  # grey levels, root mean square, of an L2 distance of 1
    levels = s["l2_moved"] * unit * s["images"] / tried
    idle = s["steps_used"] * ((s["noise"] or 0.0) * LEVELS) ** 2 + (_CUT if s["rounding"] == FLOOR else 0.0)
    levels = math.sqrt(max(levels**2 - idle, 0.0))
    if not levels < LITTLE or _within_radius(s, unit, levels):
        return None
    cause = _cause(s, unit, levels, stream)
    return f"the run moved its images by {levels:.2g} grey levels (RMS) in the mean, which is little: {cause}"


def _within_radius(s: Mapping[str, Any], unit: float, levels: float) -> bool:
    """Whether the ball around the input is what keeps the images near it."""
    if s["eps"] is None:
        return False
    if s["eps"] * LEVELS < LITTLE:
        return True  # no value can change; the run has said so
    bound = s["eps"] * (LEVELS if s["norm"] == "linf" else unit)
    return bool(s["steps"] * s["step_size"] >= s["eps"]) and bool(bound <= LITTLE or levels >= bound / 2)


def _cause(s: Mapping[str, Any], unit: float, levels: float, stream: bool) -> str:
    if s["early_stop"] and 2 * s["stopped_early"] >= s["images"]:
        return (
            f"{s['stopped_early']:,} of {s['images']:,} images had reached l0 before their last step; if they should move on, "
            "give --no-early-stop"
        )
    steps, first = s["steps"], s["first_step"]
    if first is not None:
        return f"raise --steps ({steps} now), or --first-step ({first:g} now): --first-step {_more(first, steps)}"
    update = UPDATES.get(s["update"])  # None where the update of the run is not registered
    if update is not None and update.scales_with_gradient and stream:
        short = f"a step of {s['update']} is {s['step_size']:g} x the gradient, which is short for this model"
        return f"{short}; {for_a_stream(update, s)}"
    if update is not None and update.scales_with_gradient:
        length = "" if steps * DEFAULT_FIRST_STEP >= _ENOUGH else f" --first-step {_more(DEFAULT_FIRST_STEP, steps)}"
        return (
            f"a step of {s['update']} is {s['step_size']:g} x the gradient, which is short for this model; give --step-size auto"
            f"{length}"
        )
    now = f"{s['step_size']:g} now" if s["straightness"] is None else f"auto now, {s['step_size']:g}"
    raised = f"raise --steps ({steps} now) or --step-size ({now})"
    if s["norm"] is None:  # how long a step is, is the update's own affair
        return raised
    each = LEVELS if s["norm"] == "linf" else unit  # of a step size of 1
    if not levels and s["steps_used"] * s["step_size"] * each >= LITTLE:
        other = steeper_objective(s["objective"])
        return (
            f"the gradient of objective {s['objective']} is zero at these images; give another one: --objective {other}"
        )
    return f"{raised}: --step-size {max(_ENOUGH / steps / each, 2 * s['step_size']):.2g}"


def _more(first: float, steps: int) -> str:
    """A longer first step in grey levels, such that some steps are enough."""
    return f"{min(max(_ENOUGH / steps, 2 * first), LEVELS):.2g}"
