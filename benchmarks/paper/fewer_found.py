"""What the paths of `fewer.py` say: the length chosen for each number of steps, and whether few do what many do."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewer_plan import FEW, MANY, PRESET_LENGTH, REPORTED, RULED, Setting
from tables import Cell

Row = Mapping[str, Any]
#: Shown beside the FID: a set of few gradients must not have less of them than one of many.
SPREAD = ("recall", "coverage")


@dataclass(frozen=True)
class Few:
    """Few steps against many, in one setting.

    Attributes:
        steps: of the few.
        lengths: by seed, of their steps.
        fids, limits: by seed: the FID of the few, and the upper end of the many's 95% interval.
        lacking: by what of `SPREAD`, the seeds in which the few lie below the many's 95% interval.
    """

    steps: int
    lengths: Mapping[int, float]
    fids: Mapping[int, float]
    limits: Mapping[int, float]
    lacking: Mapping[str, Sequence[int]]

    @property
    def holds(self) -> bool:
        """In every seed: the FID not above the many's interval, recall and coverage not below theirs."""
        inside = all(self.fids[seed] <= self.limits[seed] for seed in self.fids)
        return inside and not any(self.lacking.values())


class Found:
    """The measurements of `fewer.py` by setting, method, seed, length and number of steps."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = values
        self.seeds: tuple[int, ...] = tuple(values["plan"]["seeds"])
        self._rows: dict[str, dict[tuple[float, int], Row]] = {
            name: {(row["length"], row["steps"]): row for row in facts["rows"]}
            for name, facts in values["paths"].items()
        }
        self._spread: Mapping[str, Mapping[str, Row]] = values.get("neighbours", {})

    def tuned(self, setting: Setting, method: str) -> Mapping[tuple[float, int], Row]:
        """The rows that lengths are chosen by; empty if there are none."""
        rows = self._rows.get(f"tune/{setting.name}.{method}", {})
        return {(length, steps): row for (length, steps), row in rows.items() if steps <= REPORTED.get(length, 0)}

    def lengths(self, setting: Setting, method: str) -> dict[int, float]:
        """The length chosen for each number of steps."""
        return choose_lengths(self.tuned(setting, method))

    def row(self, setting: Setting, method: str, seed: int, length: float, steps: int) -> Row:
        """One set of images; empty if it was not measured."""
        name = f"seed{seed}/{setting.name}.{method}"
        spread = self._spread.get(name, {}).get(f"{length:g}.{steps}" if steps else "0", {})
        row = self._rows.get(name, {}).get((length, steps), {})
        return {**row, **spread} if row else {}

    def cell(self, setting: Setting, method: str, length: float, steps: int, key: str) -> Cell:
        """One number over seeds."""
        rows = {seed: self.row(setting, method, seed, length, steps) for seed in self.seeds}
        return Cell({seed: row[key] for seed, row in rows.items() if row.get(key) is not None})

    def turns(self, setting: Setting, method: str, seed: int) -> dict[float, Mapping[str, Any]]:
        """Cosines by length of a step."""
        facts = self.values["paths"].get(f"seed{seed}/{setting.name}.{method}", {"turns": []})
        return {turn["length"]: turn for turn in facts["turns"] if turn["first"] is not None}

    def ruled(self, setting: Setting, rule: str, seed: int, steps: int) -> Row:
        """The set whose length the ``cosine`` or the ``path`` of the preset gave; empty if it was not measured."""
        name = f"seed{seed}/{setting.name}.stop.rule"
        length = self.values["paths"].get(name, {}).get(rule, {}).get(str(steps))
        if length is None:
            return {}
        return {**self._rows[name][length, steps], **self._spread.get(name, {}).get(f"{length:g}.{steps}", {})}

    def many(self, setting: Setting) -> list[tuple[float, int]]:
        """What few steps are held against, as (length, steps): the best of many short ones, and the paper's preset."""
        chosen = self.lengths(setting, "stop")
        best = min(
            (
                (self.tuned(setting, "stop")[length, steps]["fid"], length, steps)
                for steps, length in chosen.items()
                if steps >= MANY
            ),
            default=None,
        )
        preset = [(PRESET_LENGTH, setting.preset)] if setting.preset else []
        return ([best[1:]] if best else []) + preset

    def telling(self, setting: Setting, method: str) -> list[str]:
        """The sets whose spread is measured, as keys of ``features.npz``: unboosted, few steps and many."""
        shown = [(length, steps) for steps, length in self.lengths(setting, method).items() if steps <= FEW]
        many = self.many(setting) if method == "stop" else []
        return ["0", *(f"{length:g}.{steps}" for length, steps in shown + many)]


def choose_lengths(rows: Mapping[tuple[float, int], Row]) -> dict[int, float]:
    """The length with the lowest FID, for each number of steps above 0."""
    chosen: dict[int, tuple[float, float]] = {}
    for (length, steps), row in rows.items():
        if steps and (steps not in chosen or row["fid"] < chosen[steps][0]):
            chosen[steps] = row["fid"], length
    return {steps: length for steps, (_, length) in sorted(chosen.items())}


def judge(found: Found, setting: Setting, steps: int, few: Mapping[int, Row]) -> Few | None:
    """Few steps, the rows by seed, against all that `Found.many` names, in the seeds that have all numbers; None if none has."""
    limits: dict[int, float] = {}
    lacking: dict[str, list[int]] = {key: [] for key in SPREAD}
    many = found.many(setting)
    for seed in found.seeds:
        others = [row for at in many if (row := found.row(setting, "stop", seed, *at))]
        ends = {key: [row[f"{key}_interval"][0] for row in others if f"{key}_interval" in row] for key in SPREAD}
        if not few.get(seed) or not all(ends.values()) or not set(SPREAD) <= few[seed].keys():
            continue
        limits[seed] = min(row["fid_interval"][1] for row in others)
        for key in SPREAD:
            if few[seed][key] < max(ends[key]):
                lacking[key].append(seed)
    if not limits:
        return None
    lengths = {seed: few[seed]["length"] for seed in limits}
    return Few(steps, lengths, {seed: few[seed]["fid"] for seed in limits}, limits, lacking)


def target_cosine(steps: int) -> float:
    """The median cosine of the gradients before and after the first step at which so many steps do best, from 2 on.

    Fitted to the lengths that the tuning samples chose; see docs/quality.md.
    """
    return 1 - 2 / (3 * steps)


def length_at(cosines: Mapping[float, float], target: float) -> float:
    """The length whose cosine is `target`, between the lengths that were tried; beyond them, the last one."""
    tried = sorted(cosines.items())
    for (short, high), (long, low) in itertools.pairwise(tried):
        if high >= target >= low:
            part = (high - target) / (high - low) if high > low else 0.0
            return short * (long / short) ** part
    return tried[0][0] if tried[0][1] < target else tried[-1][0]


def tuned_few(found: Found, setting: Setting, method: str = "stop") -> list[Few]:
    """Every number of steps up to `FEW`, each with the length that tuning chose."""
    judged = []
    for steps, length in found.lengths(setting, method).items():
        rows = {seed: found.row(setting, method, seed, length, steps) for seed in found.seeds}
        judged += [few] if steps <= FEW and (few := judge(found, setting, steps, rows)) else []
    return judged


def ruled_few(found: Found, setting: Setting, rule: str) -> list[Few]:
    """Every number of steps whose length a rule gave; see `Found.ruled`."""
    rows = {steps: {seed: found.ruled(setting, rule, seed, steps) for seed in found.seeds} for steps in RULED}
    return [few for steps, by_seed in rows.items() if (few := judge(found, setting, steps, by_seed)) is not None]
