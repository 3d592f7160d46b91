"""The section of the page on long steps: tables of what `fewer.py` found."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from fewer_found import Few, Found, within_few
from fewer_plan import FEW, METHODS, PRESET_LENGTH, REPORTED, SETTINGS, Setting
from variants import MODELS, SOURCES

_SHOWN = (1, 2, 3, 4, 5, 10, 20)
_SPREAD = ("precision", "recall", "density", "coverage")


def title_of(setting: Setting) -> str:
    """A setting in words."""
    return f"{SOURCES[setting.source]}, {MODELS[setting.model].what}"


def write_section(values: Mapping[str, Any], pictures: Mapping[str, str]) -> list[str]:
    """The section, in parts that blank lines separate."""
    found = Found(values)
    plan, machine = values["plan"], values["machine"]
    there = [setting for setting in SETTINGS if _measured(found, setting, "stop")]
    parts = [
        "## Fewer gradients",
        "An image's path is nearly straight, so a few long steps can replace many short ones. Each number of steps below has "
        f"the length that does best on {plan['tuning']} other samples of seed {plan['seeds'][0]}, of these: "
        f"{', '.join(f'{length:g}' for length in REPORTED)}. FID of {plan['count']} images a seed (more than the tables "
        "above show for 2,000, because FID falls as images are added), mean ± deviation over seeds "
        f"{', '.join(map(str, plan['seeds']))}. `benchmarks/paper/fewer.py` computes them.",
    ]
    if "fewer" in pictures:
        parts.append(f"![FID over gradients an image]({pictures['fewer']})")
    for method in METHODS.values():
        shown = [setting for setting in SETTINGS if _measured(found, setting, method.name)]
        if shown:
            parts += [f"**{method.what}**, steps x length:", "\n".join(_distances(found, shown, method.name))]
    parts += ["### Do few steps do what many do?", *_verdicts(found, there), "\n".join(_spread(found, there))]
    parts += ["### How straight the paths are", "\n".join(_turns(found, there))]
    if "long" in pictures:
        parts.append(f"![The same images after 20 short and after 4 long steps]({pictures['long']})")
    parts.append(
        f"Machine: {machine['cores']} cores of {machine['cpu']}, torch {machine['torch']}; {values['seconds'] / 60:.0f} minutes "
        "of work beside other jobs."
    )
    return parts


def _measured(found: Found, setting: Setting, method: str) -> bool:
    return bool(found.lengths(setting, method)) and any(
        found.row(setting, method, seed, 0.0, 0) for seed in found.seeds
    )


def _distances(found: Found, settings: list[Setting], method: str) -> list[str]:
    chosen = {setting: found.lengths(setting, method) for setting in settings}
    shown = [n for n in _SHOWN if any(n in lengths for lengths in chosen.values())]
    preset = method == "stop" and any(setting.preset for setting in settings)
    heads = ["no boosting", *(["the paper's preset"] if preset else []), *(_steps(n) for n in reversed(shown))]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for setting in settings:
        cells = [found.cell(setting, method, 0.0, 0, "fid").show(2)]
        if preset:
            cells.append(_at(found, setting, method, PRESET_LENGTH, setting.preset) if setting.preset else "-")
        cells += [
            _at(found, setting, method, chosen[setting][n], n) if n in chosen[setting] else "-" for n in reversed(shown)
        ]
        lines.append(f"| {title_of(setting)} | {' | '.join(cells)} |")
    return lines


def _steps(count: int) -> str:
    return f"{count} step" if count == 1 else f"{count} steps"


def _at(found: Found, setting: Setting, method: str, length: float, steps: int) -> str:
    cell = found.cell(setting, method, length, steps, "fid")
    if not cell.values:
        return "-"
    many = f"{steps} x {length:g}" if length == PRESET_LENGTH else f"x {length:g}"
    return f"{cell.show(2)} ({many})"


def _verdicts(found: Found, settings: list[Setting]) -> list[str]:
    parts = [
        "Few steps hold if, in every seed, their FID is not above the 95% bootstrap interval of many (the best of 20 short steps, "
        "and the paper's preset where there is one), and recall and coverage are not below the intervals of many. PGD `joint` "
        "with early stopping:"
    ]
    lines = ["| | steps that hold, up to 5 | steps that do not |", "|---|---|---|"]
    for setting in settings:
        judged = within_few(found, setting)
        if judged:
            good = ", ".join(f"{few.steps} x {few.length:g}" for few in judged if few.holds) or "none"
            bad = "; ".join(f"{few.steps} x {few.length:g}: {_fault(few)}" for few in judged if not few.holds) or "none"
            lines.append(f"| {title_of(setting)} | {good} | {bad} |")
    return [*parts, "\n".join(lines)]


def _fault(few: Few) -> str:
    above = [seed for seed in few.fids if few.fids[seed] > few.limits[seed]]
    said = [f"FID in seed {', '.join(map(str, above))}"] if above else []
    said += [f"{key} in seed {', '.join(map(str, seeds))}" for key, seeds in few.lacking.items() if seeds]
    return ", ".join(said)


def _spread(found: Found, settings: list[Setting]) -> list[str]:
    """Precision, recall, density, coverage and gradients of many and of few."""
    lines = [
        f"| | steps x length | gradients an image | FID | {' | '.join(_SPREAD)} |",
        "|---" * (len(_SPREAD) + 4) + "|",
    ]
    for setting in settings:
        chosen = found.lengths(setting, "stop")
        for length, steps in [*found.many(setting), *((chosen[n], n) for n in range(FEW, 1, -1) if n in chosen)]:
            cells = [found.cell(setting, "stop", length, steps, key) for key in ("gradients", "fid", *_SPREAD)]
            if cells[0].values:
                digits = (1, 2, *(3 for _ in _SPREAD))
                texts = [cell.show(d) for cell, d in zip(cells, digits, strict=True)]
                lines.append(f"| {title_of(setting)} | {steps} x {length:g} | {' | '.join(texts)} |")
    return lines


def _turns(found: Found, settings: list[Setting]) -> list[str]:
    """The median cosine of the gradients around the first step, by length; over seeds."""
    lines = [f"| | {' | '.join(f'{length:g}' for length in REPORTED)} |", "|---" * (len(REPORTED) + 1) + "|"]
    for setting in settings:
        turns = [found.turns(setting, "stop", seed) for seed in found.seeds]
        cells = []
        for length in REPORTED:
            there = [turn[length]["first"][1] for turn in turns if length in turn]
            cells.append(f"{statistics.fmean(there):.2f}" if there else "-")
        lines.append(f"| {title_of(setting)} | {' | '.join(cells)} |")
    return lines
