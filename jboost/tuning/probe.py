"""How long the gradient is: sgld's step sizes are factors of it, so the sizes to try depend on the model."""

from __future__ import annotations

import math

import numpy as np

from jboost.booster import Booster
from jboost.engine.errors import FailureError
from jboost.engine.method.updates import SGLD

from .subset import Subset

_IMAGES = 64
_TRIES = 12
#: The move to measure, in grey levels of each value: far above rounding, far below the range.
_LEVELS = 6.0


def gradient_length(booster: Booster, subset: Subset, objective: str, l0: float | None) -> float:
    """The mean L2 norm of the objective's gradient at the first images, as far as a step can follow it inside [0, 1].

    It is the length of one step without noise over its step size, so every engine can measure it. The step is as long as 6 grey
    levels in each value, about; the rounding to 8 bits then hardly counts.

    Raises:
        FailureError: no step moves the images.
    """
    picks = np.unique(np.linspace(0, len(subset.images) - 1, _IMAGES).round().astype(np.int64))
    images, labels = subset.images[picks], None if subset.labels is None else subset.labels[picks]
    aim = _LEVELS / 255 * math.sqrt(math.prod(images.shape[1:]))
    size = aim
    for _ in range(_TRIES):
        records = booster.boost(
            images, labels, SGLD(steps=1, step_size=size, noise=0.0), objective=objective, l0=l0, early_stop=False
        ).records
        moved = float(records["l2"][~records["failed"]].mean()) if not records["failed"].all() else math.nan
        if math.isnan(moved):
            break
        if aim / 2 <= moved <= aim * 2:
            return moved / size
        # Clamping keeps a step that is far too long from showing how much too long it is.
        size *= min(max(aim / moved, 0.05), 100.0) if moved > 0 else 100.0
    raise FailureError(
        f"the length of the gradient of objective {objective} cannot be measured on {len(images)} images, so the step sizes for "
        "sgld are unknown; name them with --step-size, and check the bundle with: jboost verify"
    )
