"""``--step-size auto``: the step size that gives a step a length that follows from the model, or that the user states.

Lengths are per value, in grey levels: the root mean square of an image's changes. So one length serves images of every size and
number of channels.

- A step of `SGLD` is step_size x gradient, so its length depends on how steep the checkpoint is. Its first step gets a stated mean
  length (`Aim.first_step`).
- A step of `PGD` has a fixed length. It gets the length over which the gradient keeps its direction: the median cosine of the
  gradients before and after one such step is `Aim.straightness`. A stated length applies too.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jboost.engine.errors import BadInputError

from .updates import UPDATES, Update

#: What a user gives for the step size to have it determined.
AUTO = "auto"
#: The default length of a first step; [docs/boost.md](../../docs/boost.md#step-size) has the measurement.
DEFAULT_FIRST_STEP = 1.0
#: How far the gradient may turn in all steps of a run together; [docs/boost.md](../../docs/boost.md#step-size) has the measurement.
BEND = 2 / 3
#: Grey levels of the image's range [0, 1].
LEVELS = 255
#: The lengths that a probe tries, in grey levels, half an octave apart.
LENGTHS = tuple(2 ** (half / 2) for half in range(-8, 13))
_DIGITS = 3
# Less is no bend but rounding.
_STRAIGHT = 1e-7
# The share of a bend that it may be missed by, and how often the length is refined for it.
_CLOSE, _REFINEMENTS = 0.02, 5
#: The most cosines that `straight_length` asks for.
MOST_COSINES = len(LENGTHS).bit_length() + _REFINEMENTS


class Aim(NamedTuple):
    """What ``auto`` sets a step size to; both are None if the step size was stated.

    Attributes:
        first_step: mean length of the first step in grey levels.
        straightness: median cosine of the gradients before and after the first step.
    """

    first_step: float | None = None
    straightness: float | None = None


def straightness_for(steps: int) -> float:
    """The median cosine that a step is to have in a run of `steps` steps: 1 - `BEND` / steps, with three digits of the latter."""
    return round(1 - rounded(BEND / max(steps, 1)), 12)


def find_aim(update: Update, step_size: str | None, first_step: float | None) -> Aim:
    """What the step size is to be set to; empty if the update's own applies.

    Args:
        update: the update of the run.
        step_size: ``"auto"``; None: the update's own.
        first_step: the length in grey levels, if the user states one.

    Raises:
        BadInputError: `step_size` is something else, a length is given without ``"auto"`` or is out of range, or nothing is
            known about the length of the update's steps.
    """
    if step_size is None:
        if first_step is not None:
            raise BadInputError("--first-step is the length for --step-size auto; add --step-size auto or leave it out")
        return Aim()
    if step_size != AUTO:
        raise BadInputError(
            f'step_size is "auto" here, got {step_size!r}; give a number to the update: '
            f"{type(update).__name__}(step_size={type(update).step_size:g})"
        )
    fixed = _has_fixed_length(update)
    if not fixed and not update.scales_with_gradient:
        others = [name for name, other in UPDATES.items() if other.scales_with_gradient or _has_fixed_length(other())]
        raise BadInputError(
            f"--step-size auto: {type(update).__name__} does not say how long its steps are (scales_with_gradient, "
            f"step_size_for); give a number, such as --step-size {type(update).step_size:g}, or use "
            f"{' or '.join(f'--update {name}' for name in others)}"
        )
    if first_step is None:
        return Aim(straightness=straightness_for(update.steps)) if fixed else Aim(DEFAULT_FIRST_STEP)
    if isinstance(first_step, bool) or not isinstance(first_step, int | float):
        raise BadInputError(f"first step must be a number of grey levels, got {first_step!r}")
    if not 0 < first_step <= LEVELS:
        raise BadInputError(f"first step must be above 0 and at most {LEVELS} grey levels, got {first_step:g}")
    return Aim(float(first_step))


def _has_fixed_length(update: Update) -> bool:
    return update.step_size_for(1.0, 1) is not None


def step_size_for(first_step: float, values: int, mean_norm: float) -> float:
    """The factor of the gradient for a length, rounded.

    Args:
        first_step: the length in grey levels, root mean square over an image's values.
        values: the number of an image's values.
        mean_norm: mean over images of the gradient's L2 norm, above 0, for images in [0, 1].
    """
    return rounded(first_step / LEVELS * math.sqrt(values) / mean_norm)


def rounded(number: float) -> float:
    """A number to three significant digits: engines differ in the last bits of a gradient."""
    return float(f"{number:.{_DIGITS}g}")


class Straight(NamedTuple):
    """The length of a step in grey levels, and the cosine that was measured there."""

    length: float
    cosine: float


def straight_length(cosine: Callable[[float], float], straightness: float) -> Straight:
    """The length of a step, in grey levels, over which the gradient's direction keeps a cosine.

    It bisects `LENGTHS`, then interpolates between two neighbours until the cosine there is close enough. So it asks for at most
    `MOST_COSINES`.

    Args:
        cosine: the cosine after a step of a length; it falls as steps grow.
        straightness: the cosine to reach, below 1.

    Returns:
        The length, with its cosine; a length of 0 if the shortest of `LENGTHS` already turns the gradient further, of infinity if
        the longest does not.
    """
    found: dict[float, float] = {}
    want = 1 - straightness

    def bend(length: float) -> float:
        found[length] = cosine(length)
        return max(1 - found[length], _STRAIGHT)

    at = bisect_left(LENGTHS, want, key=bend)
    if at in (0, len(LENGTHS)):
        return Straight(math.inf if at else 0.0, math.nan)
    shorter, longer = LENGTHS[at - 1], LENGTHS[at]
    for refined in range(_REFINEMENTS):
        bends = [max(1 - found[length], _STRAIGHT) for length in (shorter, longer)]
        # Between neighbours a bend grows as a power of the length, as a rule; where it does not, halving helps.
        share = 0.5 if refined % 2 else math.log(want / bends[0]) / math.log(bends[1] / bends[0])
        length = float(shorter * (longer / shorter) ** share)
        got = bend(length)
        if abs(got - want) <= _CLOSE * want:
            return Straight(length, found[length])
        shorter, longer = (length, longer) if got < want else (shorter, length)
    nearest = min(shorter, longer, key=lambda length: abs(1 - found[length] - want))
    return Straight(nearest, found[nearest])


def in_levels(length: float) -> str:
    """A length for people: ``"1 grey level"``."""
    return f"{length:g} grey level{'' if length == 1 else 's'}"


def in_words(first_step: float | None, straightness: float | None) -> str | None:
    """What a step size was set to, for people; None if it was stated."""
    if first_step is not None:
        return f"a first step of {in_levels(first_step)}"
    return (
        None if straightness is None else f"a cosine of {straightness:g} between the gradients before and after a step"
    )


def steeper_objective(objective: str) -> str:
    """An objective to try where another one's gradient is zero: one that does not saturate."""
    return "energy" if objective == "logit" else "logit"


def for_a_stream(update: type[Update], values: Mapping[str, Any], first_step: float | None = None) -> str:
    """The remedy for a stream, which has no images to probe before it begins.

    Args:
        update: the stream's update.
        values: of its fields, as far as they are known.
        first_step: the length that was stated.
    """
    given = {name: values.get(name, field.default) for name, field in update.options.items() if name != "step_size"}
    told = [
        f"{name}={value!r}" for name, value in given.items() if name == "steps" or value != update.options[name].default
    ]
    length = "" if first_step is None else f", first_step={first_step:g}"
    return (
        f"boost some of its images first, with jboost.load(...).boost(images, labels, {update.__name__}({', '.join(told)}), "
        f'step_size="auto"{length}), and give the stream that step_size: result.summary.step_size'
    )


def check_not_auto(update: Update, step_size: str | None, first_step: float | None) -> None:
    """Refuse ``auto`` for a stream.

    Raises:
        BadInputError: it is asked for, or something that no set would take either.
    """
    if step_size is None and first_step is None:
        return
    find_aim(update, step_size or AUTO, first_step)
    remedy = for_a_stream(type(update), vars(update), first_step)
    raise BadInputError(f'a stream has no images to set step_size="auto" by; {remedy}')
