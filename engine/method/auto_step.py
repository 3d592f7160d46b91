"""``--step-size auto``: the step size that gives the first step a stated mean length.

A step of `SGLD` is step_size x gradient, so its length depends on how steep the checkpoint is. The length is stated per value, in
grey levels: the root mean square of an image's changes. So one length serves images of every size and number of channels.
"""

from __future__ import annotations

import math

from jboost.engine.errors import BadInputError

from .updates import PGD, UPDATES, Update

#: What a user gives for the step size to have it determined.
AUTO = "auto"
#: The default length; [docs/boost.md](../../docs/boost.md#step-size) has the measurement.
DEFAULT_FIRST_STEP = 1.0
#: Grey levels of the image's range [0, 1].
LEVELS = 255
_DIGITS = 3
#: The remedy for a stream, which has no images to probe before it begins.
FOR_A_STREAM = (
    'boost some of its images first, with jboost.load(...).boost(images, labels, SGLD(), step_size="auto"), and give the stream '
    "that step_size: result.summary.step_size"
)


def find_first_step(update: Update, step_size: str | None, first_step: float | None) -> float | None:
    """The length of the first step in grey levels that the step size is to be set to; None if the update's own applies.

    Args:
        update: the update of the run.
        step_size: ``"auto"``; None: the update's own.
        first_step: the length, if the user states one.

    Raises:
        BadInputError: `step_size` is something else, a length is given without ``"auto"`` or is out of range, or the update's
            steps do not scale with the gradient.
    """
    if step_size is None:
        if first_step is not None:
            raise BadInputError("--first-step is the length for --step-size auto; add --step-size auto or leave it out")
        return None
    if step_size != AUTO:
        raise BadInputError(
            f'step_size is "auto" here, got {step_size!r}; give a number to the update: SGLD(step_size=0.3)'
        )
    if not update.scales_with_gradient:
        others = [name for name, other in UPDATES.items() if other.scales_with_gradient]
        why = (
            "PGD's steps have a fixed length, the step size itself"
            if isinstance(update, PGD)
            else f"{type(update).__name__} does not say that its step is step_size x gradient (scales_with_gradient)"
        )
        raise BadInputError(
            f"--step-size auto: {why}; give a number, such as --step-size {type(update).step_size:g}, or use "
            f"{' or '.join(f'--update {name}' for name in others)}"
        )
    if isinstance(first_step, bool) or not isinstance(first_step, int | float | None):
        raise BadInputError(f"first step must be a number of grey levels, got {first_step!r}")
    length = DEFAULT_FIRST_STEP if first_step is None else float(first_step)
    if not 0 < length <= LEVELS:
        raise BadInputError(f"first step must be above 0 and at most {LEVELS} grey levels, got {length:g}")
    return length


def step_size_for(first_step: float, values: int, mean_norm: float) -> float:
    """The step size for a length, to three significant digits: engines differ in the last bits of a gradient.

    Args:
        first_step: the length in grey levels, root mean square over an image's values.
        values: the number of an image's values.
        mean_norm: mean over images of the gradient's L2 norm, above 0, for images in [0, 1].
    """
    return float(f"{first_step / LEVELS * math.sqrt(values) / mean_norm:.{_DIGITS}g}")


def in_levels(length: float) -> str:
    """A length for people: ``"1 grey level"``."""
    return f"{length:g} grey level{'' if length == 1 else 's'}"


def steeper_objective(objective: str) -> str:
    """An objective to try where another one's gradient is zero: one that does not saturate."""
    return "energy" if objective == "logit" else "logit"
