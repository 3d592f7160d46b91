"""The choice of a variant's steps, step size and noise: one grid for every rule, and no choice on the grid's edge."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

#: Settings whose FID exceeds the lowest by less than this share count as equally good.
TIE = 0.02
#: How often a grid grows before its edge is an error.
GROWTHS = 3


class Setting(NamedTuple):
    """A number of steps, a step size, and the noise's standard deviation; None for a rule without noise."""

    steps: int
    size: float
    noise: float | None = None

    def flags(self) -> list[str]:
        """The setting as flags of `jboost boost`."""
        noise = [] if self.noise is None else ["--noise", f"{self.noise:g}"]
        return ["--steps", str(self.steps), "--step-size", f"{self.size:g}", *noise]


class Path(NamedTuple):
    """One run that answers for several numbers of steps, by snapshots: its step size, noise and numbers of steps."""

    size: float
    noise: float | None
    steps: tuple[int, ...]

    def settings(self) -> list[Setting]:
        """One setting for each number of steps."""
        return [Setting(steps, self.size, self.noise) for steps in self.steps]


@dataclass(frozen=True)
class Grid:
    """The settings that are tried first.

    Attributes:
        sizes: step sizes, each twice the one before it.
        noises: standard deviations of the noise, 0 first, each ten times the one before it; None alone for PGD.
        steps: numbers of steps, from 1.
    """

    sizes: tuple[float, ...]
    noises: tuple[float | None, ...] = (None,)
    steps: tuple[int, ...] = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40)

    def paths(self) -> list[Path]:
        """The runs that cover the grid."""
        return [Path(size, noise, self.steps) for noise in self.noises for size in self.sizes]

    def to_dict(self) -> dict[str, Any]:
        """The grid as plain values."""
        return {"sizes": list(self.sizes), "noises": list(self.noises), "steps": list(self.steps)}


class EdgeError(ValueError):
    """The best setting lies on the edge of the grid, so a better one may lie outside."""


@dataclass(frozen=True)
class Choice:
    """What a search found.

    Attributes:
        setting: the chosen setting.
        tried: the FID of every setting that was tried.
        growths: how often the grid grew.
    """

    setting: Setting
    tried: Mapping[Setting, float]
    growths: int

    def to_dict(self) -> dict[str, Any]:
        """The choice as plain values."""
        tried = [{**setting._asdict(), "fid": fid} for setting, fid in sorted(self.tried.items(), key=_order)]
        fid = self.tried[self.setting]
        return {"chosen": self.setting.flags(), "fid": fid, "growths": self.growths, "tried": tried}


def search(grid: Grid, measure: Callable[[Sequence[Path]], Mapping[Setting, float]]) -> Choice:
    """Choose the setting with the lowest FID inside a grid that grows until the lowest lies inside.

    Settings within `TIE` of the lowest FID count as equal; the lowest of them that is not on the edge is chosen. If all
    of them are on the edge, the grid grows there.

    Args:
        grid: the settings that are tried first.
        measure: returns the FID of every setting of some paths.

    Raises:
        EdgeError: the lowest FID is still on the edge after `GROWTHS` growths.
    """
    tried = dict(measure(grid.paths()))
    for growths in range(GROWTHS + 1):
        least = min(tried.values())
        best = sorted((fid, setting) for setting, fid in tried.items() if fid <= least * (1 + TIE))
        inside = [setting for _, setting in best if not beyond(setting, tried)]
        if inside:
            return Choice(inside[0], tried, growths)
        edge = beyond(best[0][1], tried)
        if growths < GROWTHS:
            tried |= measure(edge)
    raise EdgeError(
        f"the lowest FID, {best[0][0]:.3f} at {' '.join(best[0][1].flags())}, lies on the edge of the grid even after "
        f"{GROWTHS} growths; widen the grid in variants.py"
    )


def beyond(setting: Setting, tried: Mapping[Setting, float]) -> list[Path]:
    """The runs that are missing around a setting; empty if it is inside the grid.

    A setting is inside if its number of steps has been exceeded, its step size doubled, its step size halved for as long a
    way, and its noise raised. One step and no noise are natural ends.
    """
    paths: dict[tuple[float, float | None], list[int]] = {}
    for other in tried:
        paths.setdefault((other.size, other.noise), []).append(other.steps)

    def tried_at(size: float, noise: float | None) -> list[int]:
        return next((sorted(steps) for known, steps in paths.items() if _same((size, noise), known)), [])

    size, noise = setting.size, setting.noise
    steps, half = tried_at(size, noise), tried_at(size / 2, noise)
    missing = []
    if setting.steps == steps[-1]:
        missing.append(Path(size, noise, (round(1.5 * steps[-1]), 2 * steps[-1])))
    if not half or half[-1] < 2 * setting.steps:
        more = {round(1.5 * setting.steps), 2 * setting.steps, 3 * setting.steps} | ({*steps} if not half else set())
        missing.append(Path(size / 2, noise, tuple(sorted(more - {*half}))))
    if not tried_at(2 * size, noise):
        missing.append(Path(2 * size, noise, tuple(steps)))
    if noise is not None and not tried_at(size, raised := _raised(noise, paths)):
        missing.append(Path(size, raised, tuple(steps)))
    return missing


def _raised(noise: float, paths: Mapping[tuple[float, float | None], Any]) -> float:
    """The next higher noise: of those tried, or ten times this one."""
    higher = sorted(known for _, known in paths if known is not None and known > noise)
    return higher[0] if higher else 10 * noise


def _same(one: tuple[float, float | None], other: tuple[float, float | None]) -> bool:
    if (one[1] is None) != (other[1] is None):
        return False
    return math.isclose(one[0], other[0], rel_tol=1e-6) and math.isclose(one[1] or 0.0, other[1] or 0.0, rel_tol=1e-6)


def _order(item: tuple[Setting, float]) -> tuple[float, float, int]:
    setting = item[0]
    return setting.noise or 0.0, setting.size, setting.steps
