"""The section of the page on long steps: tables of what `fewer.py` found."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from fewer_found import Few, Found, Row, ruled_few, tuned_few
from fewer_plan import METHODS, PRESET_LENGTH, REPORTED, RULED, SETTINGS, SHOWN, Setting
from plan import LARGE_SIDE, SIDE
from tables import Cell
from variants import SOURCES

_RULES = (
    "PGD `joint` with early stopping, as `jboost boost` does it by default. Few steps *hold* if, in every seed, their FID is "
    "not above the 95% bootstrap interval of many steps, and recall and coverage are not below the 95% intervals of theirs. Many "
    "steps are the best of 15 or 20 short ones and the paper's preset for such a generator (table 5: 35 or 25 x 0.1), "
    "whichever is stricter. Three ways to choose the length:\n\n"
    "- *tuned*: as in the tables above;\n"
    "- *cosine*: the length at which the gradients before and after the first step have a median cosine of 1 - 2/(3N), for N "
    "steps;\n"
    "- *preset's path*: four steps that are together as long as the preset's."
)
_NEIGHBOURS = (
    "Lengths by the rule *cosine*, beside many steps. The interval is the 95% bootstrap interval, mean of both ends over "
    "seeds. Recall and the others are against 4,000 test images; coverage is low because there are fewer samples than that."
)
_RAW = "`--update sgld --noise 0`: a step is a multiple of the gradient. Lengths are means over the images of the first step."
_SEEN = (
    "To the eye (40 images of each of these settings and of the 40 pixels, seed 0): four long steps give the images of twenty "
    "short ones, with slightly more contrast in the grain, which short steps have too. No other artefacts were seen. Two steps "
    "are visibly grainier in some dark garments."
)
_KEPT = "Paths: steps x length of each tuned number of steps, and the cosine of the first step there."
_TURNS = (
    "The median cosine of the gradients before and after the first step, by its length; means over seeds. The formula of the "
    "rule *cosine* was fitted to the lengths that the tuning samples of seed 0 chose; the other seeds had no part in it. "
    f"At {LARGE_SIDE} pixels a step is {LARGE_SIDE}/{SIDE} times as long as the heading says."
)
_SPREAD = ("precision", "recall", "density", "coverage")


def title_of(setting: Setting) -> str:
    """A setting in words."""
    return f"{SOURCES[setting.source]}; {setting.model}"


def write_section(values: Mapping[str, Any], pictures: Mapping[str, str]) -> list[str]:
    """The section, in parts that blank lines separate."""
    found = Found(values)
    plan, machine = values["plan"], values["machine"]
    there = [setting for setting in SETTINGS if _measured(found, setting, "stop")]
    parts = [
        "## Fewer gradients",
        "An image's path is nearly straight, so a few long steps can replace many short ones. The tables give the FID after "
        "each number of steps, with the length that does best on "
        f"{plan['tuning']} other samples of seed {plan['seeds'][0]}. Lengths tried: "
        f"{', '.join(f'{length:g}' for length in REPORTED)}, {LARGE_SIDE}/{SIDE} times as long at {LARGE_SIDE} pixels. ± is the "
        f"standard deviation over seeds {', '.join(map(str, plan['seeds']))}, with {plan['count']} images each; the tables above "
        "have more images, so their FIDs are lower. A number without ± is of one seed. `benchmarks/paper/fewer.py` made them.",
    ]
    parts += _missing(values["missing"])
    parts += _shown(pictures, "fewer", "FID over gradients an image")
    for method in METHODS.values():
        shown = [setting for setting in SETTINGS if _measured(found, setting, method.name)]
        if shown:
            parts += [f"### {method.what}", "\n".join(_distances(found, shown, method.name))]
            parts += [_RAW] if method.raw else []
    parts += ["### Do few steps do what many do?", _RULES, *_reach(found, there)]
    parts += ["\n".join(_verdicts(found, there)), _NEIGHBOURS]
    parts += [
        "\n".join(_spread(found, there)),
        "### How straight the paths are",
        _TURNS,
        "\n".join(_turns(found, there)),
        _KEPT,
        "\n".join(_kept(found, there)),
    ]
    long = _shown(pictures, "long", "The same images: generated, after 20 short steps, and after 4 long ones")
    parts += [*long, _SEEN] if long else []
    parts.append(
        f"Machine: {machine['cores']} cores of {machine['cpu']}, torch {machine['torch']}; {values['seconds'] / 60:.0f} minutes "
        "of work beside other jobs."
    )
    return parts


def _shown(pictures: Mapping[str, str], key: str, title: str) -> list[str]:
    return [f"![{title}]({pictures[key]})"] if key in pictures else []


def _missing(names: Sequence[str]) -> list[str]:
    """What was planned and not run, by method and setting, with the seeds."""
    seeds: dict[str, list[str]] = {}
    for name in names:
        seed, _, path = name.rpartition("/")
        if seed.startswith("seed"):
            seeds.setdefault(path, []).append(seed.removeprefix("seed"))
    rows = []
    for method in METHODS.values():
        said = [
            f"{title_of(setting)} (seed {', '.join(sorted(of))})"
            for setting in SETTINGS
            if (of := seeds.get(f"{setting.name}.{method.name}"))
        ]
        rows += [f"- {method.what}: {'; '.join(said)}"] if said else []
    return ["Planned and not run:\n\n" + "\n".join(rows)] if rows else []


def _measured(found: Found, setting: Setting, method: str) -> bool:
    return bool(found.lengths(setting, method)) and any(
        found.row(setting, method, seed, 0.0, 0) for seed in found.seeds
    )


def _distances(found: Found, settings: list[Setting], method: str) -> list[str]:
    chosen = {setting: found.lengths(setting, method) for setting in settings}
    shown = [n for n in SHOWN if any(n in lengths for lengths in chosen.values())]
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
    own = f"{length * setting.longer:.3g}"
    return f"{cell.show(2)} ({f'{steps} x {own}' if length == PRESET_LENGTH else f'x {own}'})"


def _reach(found: Found, settings: list[Setting]) -> list[str]:
    """For each number of steps with the rule *cosine*, in how many settings they hold, and where they do not."""
    said = []
    for steps in reversed(RULED):
        judged = {
            setting: few for setting in settings for few in ruled_few(found, setting, "cosine") if few.steps == steps
        }
        failed = [title_of(setting) for setting, few in judged.items() if not few.holds]
        if judged:
            where = f", not in: {', '.join(failed)}" if failed else ""
            said.append(f"- {steps} steps hold in {len(judged) - len(failed)} of {len(judged)} settings{where}.")
    return ["With the rule *cosine*:\n\n" + "\n".join(said)] if said else []


def _verdicts(found: Found, settings: list[Setting]) -> list[str]:
    """Which few steps hold: with the lengths that tuning chose, and with those that a rule gives."""
    lines = ["| | length | hold | do not hold |", "|---|---|---|---|"]
    for setting in settings:
        for name, judged in (
            ("tuned", tuned_few(found, setting)),
            ("cosine", ruled_few(found, setting, "cosine")),
            ("preset's path", ruled_few(found, setting, "path")),
        ):
            if judged:
                there = len(judged[0].fids)
                name += "" if there == len(found.seeds) else f", {there} of {len(found.seeds)} seeds"
                good = ", ".join(_times(setting, few.steps, few.lengths) for few in judged if few.holds) or "none"
                bad = (
                    "; ".join(
                        f"{_times(setting, few.steps, few.lengths)}: {_fault(few)}" for few in judged if not few.holds
                    )
                    or "none"
                )
                lines.append(f"| {title_of(setting)} | {name} | {good} | {bad} |")
    return lines


def _times(setting: Setting, steps: int, lengths: Mapping[int, float]) -> str:
    """``STEPS x LENGTH``; the lengths are those of the seeds, on 28 pixels."""
    least, most = (f"{length * setting.longer:.2g}" for length in (min(lengths.values()), max(lengths.values())))
    return f"{steps} x {least}" + (f" to {most}" if most != least else "")


def _fault(few: Few) -> str:
    above = [seed for seed in few.fids if few.fids[seed] > few.limits[seed]]
    said = [f"FID in seed {', '.join(map(str, above))}"] if above else []
    said += [f"{key} in seed {', '.join(map(str, seeds))}" for key, seeds in few.lacking.items() if seeds]
    return ", ".join(said)


def _spread(found: Found, settings: list[Setting]) -> list[str]:
    """Precision, recall, density, coverage and gradients: of many steps, and of few whose length the cosine gave."""
    heads = ["steps x length", "gradients an image", "FID", "its interval", *_SPREAD]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]

    def add(setting: Setting, steps: int, rows: Mapping[int, Row]) -> None:
        there = {seed: row for seed, row in rows.items() if row}
        if not there:
            return
        texts = [
            Cell({seed: row[key] for seed, row in there.items() if key in row}).show(digits)
            for key, digits in (("gradients", 1), ("fid", 2), *((key, 3) for key in _SPREAD))
        ]
        texts.insert(2, _interval([row["fid_interval"] for row in there.values()]))
        lengths = {seed: row["length"] for seed, row in there.items()}
        lines.append(f"| {title_of(setting)} | {_times(setting, steps, lengths)} | {' | '.join(texts)} |")

    for setting in settings:
        for length, steps in found.many(setting):
            add(setting, steps, {seed: found.row(setting, "stop", seed, length, steps) for seed in found.seeds})
        for steps in reversed(RULED):
            add(setting, steps, {seed: found.ruled(setting, "cosine", seed, steps) for seed in found.seeds})
    return lines


def _interval(ends: Sequence[Sequence[float]]) -> str:
    """The means of both ends."""
    low, high = (statistics.fmean(end) for end in zip(*ends, strict=True))
    return f"[{low:.2f}, {high:.2f}]"


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


def _kept(found: Found, settings: list[Setting]) -> list[str]:
    """The path of each tuned number of steps, and the median cosine around its first step (mean over seeds)."""
    shown = [steps for steps in reversed(SHOWN) if steps > 1]
    lines = [f"| | {' | '.join(_steps(steps) for steps in shown)} |", "|---" * (len(shown) + 1) + "|"]
    for setting in settings:
        chosen = found.lengths(setting, "stop")
        turns = [found.turns(setting, "stop", seed) for seed in found.seeds]
        cells = []
        for steps in shown:
            length = chosen.get(steps, 0.0)
            there = [turn[length]["first"][1] for turn in turns if length in turn]
            path = f"{steps * length * setting.longer:.1f}"
            cells.append(f"{path} at {statistics.fmean(there):.2f}" if there else "-")
        lines.append(f"| {title_of(setting)} | {' | '.join(cells)} |")
    return lines
