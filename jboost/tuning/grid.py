"""What is tried: the combinations of update, objective, step size and noise, and how the grid grows at its edges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

#: Step counts to measure; a run takes the largest and leaves a snapshot at each.
STEPS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 25, 35)
#: Standard deviations of SGLD's noise: the released script's.
NOISES = (1e-4,)
_RATIO = 2.0
_NOISE_RATIO = 10.0
#: What a step count beyond the last one is multiplied by.
_LONGER = (1.5, 2.0)


@dataclass(frozen=True)
class Combination:
    """What one run can measure: everything but the number of steps.

    Attributes:
        update, objective: their names.
        step_size: the update's.
        noise: the update's; None for an update without noise.
    """

    update: str
    objective: str
    step_size: float
    noise: float | None = None

    @property
    def family(self) -> tuple[str, str]:
        """Update and objective. Step sizes compare inside a family alone."""
        return self.update, self.objective

    def __str__(self) -> str:
        noise = "" if self.noise is None else f", noise {self.noise:g}"
        return f"{self.update} {self.step_size:g}{noise}, {self.objective}"


@dataclass(frozen=True)
class Setting:
    """A combination after a number of steps, measured.

    Attributes:
        combination: what was run.
        steps: the most steps that an image took.
        fid: the Fréchet distance of the subset to the reference.
        gradients: mean number of steps that an image took, each of one gradient; fewer than `steps` with early stopping.
        realness: mean realness of the images, None if it is not known.
    """

    combination: Combination
    steps: int
    fid: float
    gradients: float
    realness: float | None = None


@dataclass
class Family:
    """The values that are tried for an update and an objective.

    Attributes:
        update, objective: their names.
        sizes, steps, noises: the values, ascending; noises are (None,) for an update without noise.
        grown: step counts of the combinations for which `steps` has grown.
    """

    update: str
    objective: str
    sizes: tuple[float, ...]
    steps: tuple[int, ...]
    noises: tuple[float | None, ...] = (None,)
    grown: dict[Combination, tuple[int, ...]] = field(default_factory=dict)

    def runs(self) -> Iterator[tuple[Combination, tuple[int, ...]]]:
        """The combinations, each with its step counts."""
        for noise in self.noises:
            for size in self.sizes:
                combination = Combination(self.update, self.objective, size, noise)
                yield combination, self.grown.get(combination, self.steps)


@dataclass(frozen=True)
class Edge:
    """A value at the end of its list, so that a better one may lie beyond.

    Attributes:
        option: the option that gives the list, such as ``--step-size``.
        value: the value at the end.
        beyond: the values to try next.
    """

    option: str
    value: float
    beyond: tuple[float, ...]

    def __str__(self) -> str:
        which = "smallest" if self.beyond[0] < self.value else "largest"
        return f"{self.value:g} is the {which} {self.option} tried"


def tidy(value: float) -> float:
    """`value` to two digits, so that the command that names it is short and exact."""
    return float(f"{value:.2g}")


def edges(family: Family, setting: Setting) -> list[Edge]:
    """The lists of `family` at whose end `setting` lies. A list of one value has no end; nothing lies below noise 0 and 1 step."""
    chosen, found = setting.combination, []
    sizes = family.sizes
    if len(sizes) > 1 and chosen.step_size == sizes[-1]:
        found.append(Edge("--step-size", sizes[-1], (tidy(sizes[-1] * _ratio(sizes[-1], sizes[-2])),)))
    elif len(sizes) > 1 and chosen.step_size == sizes[0]:
        found.append(Edge("--step-size", sizes[0], (tidy(sizes[0] / _ratio(sizes[1], sizes[0])),)))
    steps = family.grown.get(chosen, family.steps)
    if len(steps) > 1 and setting.steps == steps[-1]:
        found.append(Edge("--steps", steps[-1], tuple(math.ceil(steps[-1] * factor) for factor in _LONGER)))
    elif len(steps) > 1 and setting.steps == steps[0] > 1:
        found.append(Edge("--steps", steps[0], (steps[0] // 2,)))
    noises = [noise for noise in family.noises if noise is not None]
    if len(noises) > 1 and chosen.noise == noises[-1]:
        found.append(Edge("--noise", noises[-1], (tidy(noises[-1] * _NOISE_RATIO),)))
    elif len(noises) > 1 and chosen.noise == noises[0] > 0:
        found.append(Edge("--noise", noises[0], (0.0, tidy(noises[0] / _NOISE_RATIO))))
    return found


def grow(family: Family, setting: Setting) -> list[Edge]:
    """Add values beyond the edges at which `setting` lies; returns the edges."""
    found = edges(family, setting)
    for edge in found:
        if edge.option == "--step-size":
            family.sizes = tuple(sorted({*family.sizes, *edge.beyond}))
        elif edge.option == "--noise":
            family.noises = tuple(sorted({*(n for n in family.noises if n is not None), *edge.beyond}))
        else:
            chosen = setting.combination
            family.grown[chosen] = tuple(sorted({*family.grown.get(chosen, family.steps), *map(int, edge.beyond)}))
    return found


def best_of(settings: Iterable[Setting]) -> Setting:
    """The setting of the lowest FID; of equal ones the one with the fewest gradients."""
    return min(settings, key=lambda s: (s.fid, s.gradients, s.steps, s.combination.step_size))


def _ratio(larger: float, smaller: float) -> float:
    return larger / smaller if smaller > 0 else _RATIO
