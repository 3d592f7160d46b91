"""Presets with the paper's values (table 5: number of steps x step size), the same in fewer steps, and its successors'; and a
run's settings.

A preset only gives defaults: the user's own values take precedence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jboost.engine.errors import BadInputError

from .auto_step import Aim
from .labels import check_labels_choice
from .objectives import LABEL_FREE, NEEDS_L0, resolve_objective
from .rounding import NEAREST, limit_of
from .successors import SUCCESSORS
from .updates import UPDATES, Update, find_update, owners


@dataclass(frozen=True)
class Preset:
    """Defaults for a generator.

    Attributes:
        steps, step_size, noise: values of the update's fields; None for the update's own default.
        update: the update's name.
        objective, early_stop, labels: None for the run's own defaults.
        about: the generator that the values are for.
        options: values of the update's other fields.
    """

    steps: int
    step_size: float
    update: str = "pgd"
    noise: float | None = None
    objective: str | None = None
    early_stop: bool | None = None
    about: str = ""
    labels: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        """The preset's values for the update's fields."""
        stated = {"steps": self.steps, "step_size": self.step_size, "noise": self.noise, **self.options}
        return {name: value for name, value in stated.items() if value is not None}


#: The update of a run that names none.
DEFAULT_UPDATE = next(iter(UPDATES))

#: The paper's (table 5).
PAPER: dict[str, Preset] = {
    "ct1": Preset(35, 0.1, about="consistency training, 1 step"),
    "ct2": Preset(25, 0.1, about="consistency training, 2 steps"),
    "cd1": Preset(15, 0.15, about="consistency distillation, 1 step"),
    "cd2": Preset(7, 0.14, about="consistency distillation, 2 steps"),
    "adm": Preset(7, 0.14, about="ADM (guided diffusion)"),
    "biggan": Preset(15, 0.1, about="BigGAN"),
    "iddpm": Preset(7, 0.14, about="improved DDPM"),
}

#: The steps of a preset called ``-fast``.
FAST_STEPS = 4


def _fast(preset: Preset) -> Preset:
    """The same path in a few long steps; docs/boost.md says why that is enough."""
    size = preset.steps * preset.step_size / FAST_STEPS
    return replace(preset, steps=FAST_STEPS, step_size=size, about=f"{preset.about}: that path in {FAST_STEPS} steps")


PRESETS: dict[str, Preset] = {
    **PAPER,
    **{f"{name}-fast": _fast(preset) for name, preset in PAPER.items()},
    "released-sgld": Preset(
        15,
        0.002,
        update="sgld",
        noise=1e-4,
        objective="logit",
        early_stop=False,
        about="the released script: its 0.2 averaged over its batch of 100; no row of tables 3 and 4 is known to be its",
    ),
    **{name: Preset(**values) for name, values in SUCCESSORS.items()},
}


@dataclass(frozen=True)
class Settings:
    """The settings of a run; together with the bundle and the input they determine the output.

    Attributes:
        update: how the iterate moves.
        objective: name of the objective that a step minimises.
        l0: mean realness of real images (eq. 13), if known.
        early_stop: whether an image stops once its realness has reached l0.
        seed: the noise's seed.
        rounding: how the iterate becomes whole levels: ``"nearest"`` or ``"floor"``.
        labels: the classes to climb, ``"given"``, ``"predicted"`` or ``"debiased"``; None: those given, else predictions.
        first_step, straightness: with ``--step-size auto``, what determines the step size; see
            `jboost.engine.method.auto_step.Aim`. None: the other one does, or the step size was stated.
    """

    update: Update
    objective: str
    l0: float | None
    early_stop: bool
    seed: int
    rounding: str = NEAREST
    labels: str | None = None
    first_step: float | None = None
    straightness: float | None = None

    @property
    def aim(self) -> Aim:
        """What ``--step-size auto`` sets the step size to; empty if the step size was stated."""
        return Aim(self.first_step, self.straightness)


def find_preset(name: str | None) -> Preset | None:
    """The preset called `name`; None for None.

    Raises:
        BadInputError: there is no such preset.
    """
    if name is None:
        return None
    if name not in PRESETS:
        raise BadInputError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def make_update(preset: Preset | None = None, *, update: str | None = None, **stated: float | str | None) -> Update:
    """The update from stated values, then the preset's, then the update's own defaults.

    Args:
        preset: gives the update and the values that are not stated.
        update: name of a registered update.
        stated: values of the update's fields, such as ``steps`` and ``step_size``; None if not stated.

    Raises:
        BadInputError: the update is unknown, a value is out of range, or a field belongs to another update.
        TypeError: no update has such a field.
    """
    name = update or (preset.update if preset else DEFAULT_UPDATE)
    given: dict[str, Any] = {}
    if preset is not None:
        # From a preset for another update only the number of steps applies: step sizes are not comparable.
        given = preset.values if preset.update == name else {"steps": preset.steps}
    given |= {option: value for option, value in stated.items() if value is not None}
    made = find_update(name)
    for option in stated.keys() | given.keys():
        if not owners(option):
            raise TypeError(f"no update has a field {option!r}")
    for option in given:
        if option not in made.options:
            raise BadInputError(_belongs(option, name))
    return made(**given)


def _belongs(option: str, name: str) -> str:
    """The error message for an option that belongs to other updates than `name`."""
    others = owners(option)
    whose = " and ".join(other.__name__ for other in others.values())
    switch = " or ".join(f"--update {other}" for other in others)
    remedy = f"add {switch} or leave it out" if name == DEFAULT_UPDATE else f"leave it out or use {switch}"
    return f"--{option.replace('_', '-')} belongs to {whose}; {remedy}"


def resolve_settings(
    update: Update,
    *,
    objective: str | None,
    l0: float | None,
    early_stop: bool | None,
    seed: int,
    preset: Preset | None = None,
    rounding: str = NEAREST,
    labels: str | None = None,
) -> Settings:
    """Resolve the objective, early stopping (default: on for objectives that need l0), rounding and labels.

    Raises:
        BadInputError: the objective is unknown, the objective or early stopping needs l0 and l0 is None, l0 is not
            finite, the seed is out of range, the rounding does not keep to the update's ball, or the objective uses no
            labels and some are asked for.
    """
    objective = resolve_objective(objective or (preset.objective if preset else None), l0)
    if early_stop is None:
        early_stop = preset.early_stop if preset and preset.early_stop is not None else objective in NEEDS_L0
    if early_stop and l0 is None:
        raise BadInputError(
            "early stopping compares with l0, the mean realness of real images, which is unknown; "
            "pass --l0 V or --no-early-stop"
        )
    if not 0 <= seed < 2**64:
        raise BadInputError(f"seed must lie in [0, 2^64), got {seed}")
    limit_of(update.kind, update.strengths().radius, rounding)  # refuses what cannot be
    check_labels_choice(labels)
    if labels is not None and ignores_labels(objective):
        raise BadInputError(f"the objective {objective} uses no labels; leave out --labels {labels}")
    if labels is None and preset is not None and not ignores_labels(objective):
        labels = preset.labels
    return Settings(update, objective, l0, early_stop, seed, rounding, labels)


def ignores_labels(objective: str) -> bool:
    """Whether the objective ignores the label."""
    return objective in LABEL_FREE
