"""The step sizes to try: the model's straightness gives PGD's lengths, and SGLD's first steps are as long."""

from __future__ import annotations

import math

from jboost.booster import Booster
from jboost.calibration import calibrated
from jboost.engine.errors import FailureError
from jboost.engine.method.auto_step import AUTO, LEVELS, rounded
from jboost.engine.method.updates import PGD, SGLD, Update
from jboost.probing import probe_of

from .grid import tidy
from .runs import Rules
from .subset import Subset

#: The run whose ``--step-size auto`` the sizes lie around, and how many times as long they are.
_STEPS, _SHARES = 4, (0.25, 0.5, 1.0, 2.0)


def step_sizes(booster: Booster, subset: Subset, objective: str, rules: Rules) -> dict[str, tuple[float, ...]]:
    """The step sizes to try by the update's name, for pgd and sgld, ascending.

    Raises:
        FailureError: the gradients give no step size.
    """
    values = math.prod(subset.images.shape[1:])
    try:
        length = _auto(booster, subset, PGD(_STEPS), objective, rules)
        factor = _auto(booster, subset, SGLD(_STEPS), objective, rules, rounded(LEVELS * length / math.sqrt(values)))
    except FailureError as e:
        raise FailureError(
            f"the step sizes to try are unknown; name them, such as --step-size 0.05,0.1,0.2,0.4 ({e})"
        ) from e
    return {name: tuple(tidy(share * one) for share in _SHARES) for name, one in (("pgd", length), ("sgld", factor))}


def _auto(
    booster: Booster, subset: Subset, update: Update, objective: str, rules: Rules, first_step: float | None = None
) -> float:
    """The step size that ``--step-size auto`` gives a run of the subset."""
    settings = booster.settings(
        update, objective=objective, l0=rules.l0, early_stop=rules.early_stop, step_size=AUTO, first_step=first_step
    )
    runner, batch_size, _ = booster.open_for(settings, int(subset.images.shape[1]))
    part = probe_of(subset.images.__getitem__, subset.labels, len(subset.images))
    return calibrated(runner, settings, [part], batch_size).update.step_size
