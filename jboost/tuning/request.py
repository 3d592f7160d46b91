"""What is asked of a tuning, checked before anything is opened, and the families of settings that it gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jboost.booster import Booster
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.method.objectives import NEEDS_L0
from jboost.engine.method.plugins import find_update_name
from jboost.engine.method.updates import UPDATES

from .grid import NOISES, STEPS, Family
from .probe import step_sizes
from .runs import Rules
from .subset import LEAST, Subset

#: More runs than this are taken for a mistake.
MOST_RUNS = 2000
#: Each time, a list gets longer by a value or two.
MOST_GROWTH = 20
_MOST_STEPS = 100  # as for snapshots
_LEAST_RESAMPLES = 20


@dataclass(frozen=True)
class Request:
    """What to tune.

    Attributes:
        samples, out: the set, and the folder to write.
        updates, objectives: names; None for pgd and sgld, and for the objectives that the bundle has graphs for.
        sizes, noises: the values to try; None for the defaults.
        steps: step counts to try; None for the defaults.
        images: images of the subset.
        grow: how many times the grid may grow at its edges.
        resamples: bootstrap resamples; 0 for none.
        rules: what all runs share.
        dtype: the network's precision.
        holdout: the share of the reference's images to leave out and write beside the result; None: use all.
        resume: go on in a folder that exists.
    """

    samples: Path
    out: Path
    updates: tuple[str, ...] | None
    objectives: tuple[str, ...] | None
    sizes: tuple[float, ...] | None
    noises: tuple[float, ...] | None
    steps: tuple[int, ...] | None
    images: int
    grow: int
    resamples: int
    rules: Rules
    dtype: str
    holdout: float | None
    resume: bool

    def __post_init__(self) -> None:
        _check_numbers("--steps", self.steps, 1)
        _check_numbers("--noise", self.noises, 0)
        _check_numbers("--step-size", self.sizes, 0, exclusive=True)
        if self.steps is not None and len(set(self.steps)) > _MOST_STEPS:
            raise BadInputError(f"--steps has {len(set(self.steps))} values; a run takes at most {_MOST_STEPS}")
        if self.images < LEAST:
            raise BadInputError(f"--images must be at least {LEAST}, got {self.images}")
        if not 0 <= self.grow <= MOST_GROWTH:
            raise BadInputError(f"--grow must be 0 to {MOST_GROWTH}, got {self.grow}")
        if self.resamples != 0 and self.resamples < _LEAST_RESAMPLES:
            raise BadInputError(
                f"a 95% interval needs at least {_LEAST_RESAMPLES} resamples (0 for none), got {self.resamples}"
            )
        if self.holdout is not None and not 0 < self.holdout < 1:
            raise BadInputError(f"--holdout must be a share of the reference between 0 and 1, got {self.holdout:g}")


def families_of(request: Request, booster: Booster, subset: Subset, *, trust_code: bool) -> list[Family]:
    """The families to try, objective by objective.

    Raises:
        BadInputError: an update or objective is unknown or cannot run, or step sizes are needed.
    """
    resolution, rules = int(subset.images.shape[1]), request.rules
    updates = [
        find_update_name(name, trust_code=trust_code) for name in dict.fromkeys(request.updates or ("pgd", "sgld"))
    ]
    noisy = [name for name in updates if "noise" in UPDATES[name].options]
    if request.noises is not None and not noisy:
        raise BadInputError(f"--noise does not apply to {', '.join(updates)}; add sgld to --update or leave it out")
    if request.sizes is None and (strange := [name for name in updates if name not in ("pgd", "sgld")]):
        raise BadInputError(f"the step sizes for {strange[0]} are not known; name them with --step-size")
    wanted = request.objectives
    if wanted is None:
        wanted = default_objectives(
            booster.bundle, resolution, booster.bundle.config.l0 if rules.l0 is None else rules.l0
        )
    objectives = []
    for name in dict.fromkeys(wanted or (None,)):
        settings = booster.settings(objective=name, l0=rules.l0, early_stop=rules.early_stop, seed=rules.seed)
        booster.open_for(settings, resolution)  # a missing graph is found before anything is boosted
        objectives.append(settings.objective)
    steps = tuple(sorted(set(request.steps or STEPS)))
    families = []
    for objective in objectives:
        known = {} if request.sizes is not None else step_sizes(booster, subset, objective, rules)
        for update in updates:
            sizes = request.sizes or known[update]
            noises = sorted(set(request.noises or NOISES)) if update in noisy else (None,)
            families.append(Family(update, objective, tuple(sorted(set(sizes))), steps, tuple(noises)))
    runs = sum(len(family.sizes) * len(family.noises) for family in families)
    if runs > MOST_RUNS:
        raise BadInputError(f"{runs:,} runs, which is more than {MOST_RUNS:,}; name fewer values")
    return families


def default_objectives(bundle: Bundle, resolution: int, l0: float | None) -> tuple[str, ...]:
    """The objectives that a bundle has graphs for at a size; those that need l0 only if it is known. Empty if it has none."""
    having = (
        a.objective for a in bundle.config.artefacts.values() if a.resolution == resolution and a.objective is not None
    )
    return tuple(sorted({name for name in having if l0 is not None or name not in NEEDS_L0}))


def _check_numbers(option: str, values: Sequence[float] | None, least: float, *, exclusive: bool = False) -> None:
    for value in values or ():
        if not math.isfinite(value) or value < least or (exclusive and value == least):
            raise BadInputError(f"{option} must be {'above' if exclusive else 'at least'} {least:g}, got {value:g}")
