"""A tuning as rows of text."""

from __future__ import annotations

from jboost.evaluation.protocols import PROTOCOLS

from .choice import RULE, RULE_WITHOUT
from .grid import Setting
from .request import MOST_GROWTH
from .result import Tuning

#: Follows the FIDs inside the best one's interval, the best one's and the chosen one's.
LIKE_BEST, BEST, CHOSEN = "~", " best", " <-"


def head_rows(result: Tuning) -> list[tuple[str, str]]:
    """The rows above the table: what the figures depend on."""
    start = result.yardstick.start
    count = "" if start.reference_images is None else f", {start.reference_images:,} images"
    return [
        ("samples", f"{result.request.samples}, {result.images:,} of {result.samples.shape[0]:,} images, spread over the classes"),
        ("reference", f"{start.reference} ({start.reference_kind}{count})"),
        ("protocol", PROTOCOLS[start.protocol].title),
        ("features", f"{start.extractor.name}, {start.extractor.source}, {start.dimensions:,} dimensions"),
        ("unboosted", f"FID {figure(result.yardstick.unboosted)}"),
        ("table", "FID" + (" (gradients an image, if images stopped early)" if any(map(_gradients, result.settings)) else "")),
    ]  # fmt: skip


def table_rows(result: Tuning) -> list[tuple[str, ...]]:
    """FIDs: a row for each combination, a column for each step count."""
    steps = sorted({setting.steps for setting in result.settings})
    rows: list[tuple[str, ...]] = [
        ("update", "objective", "noise", "step size", *(f"{s} step{'s' * (s > 1)}" for s in steps))
    ]
    for family in result.families:
        for combination, _ in family.runs():
            cells = {s.steps: _cell(result, s) for s in result.settings if s.combination == combination}
            noise = "" if combination.noise is None else f"{combination.noise:g}"
            head = (combination.update, combination.objective, noise, f"{combination.step_size:g}")
            rows.append((*head, *(cells.get(step, "-") for step in steps)))
    return rows


def choice_rows(result: Tuning) -> list[tuple[str, str]]:
    """The rows below the table: the best setting, the chosen one, and the rule."""
    choice = result.choice
    best = f"{describe(choice.best)}: FID {figure(choice.best.fid)}"
    if choice.interval is not None:
        low, high = choice.interval
        best += f" [{figure(low)}, {figure(high)}], {len(choice.inside)} settings inside ({LIKE_BEST})"
    chosen = (
        f"{describe(choice.chosen)}: FID {figure(choice.chosen.fid)}, {choice.chosen.gradients:.1f} gradients an image"
    )
    if choice.difference is not None:
        low, high = choice.difference
        chosen += f", {low:+.2g} to {high:+.2g} above the best"
    rule = RULE if result.request.resamples else RULE_WITHOUT
    return [("best", best), ("chosen", chosen), ("rule", rule)]


def notes(result: Tuning) -> list[str]:
    """What a reader must know of the figures, the gravest first."""
    lines = []
    for setting, edge in result.edges:
        more = ", ".join(f"{value:g}" for value in edge.beyond)
        which = "the chosen" if setting == result.choice.chosen else "the best"
        lines.append(
            f"ON THE GRID'S EDGE: {which} setting's {edge}, so a better one may lie beyond ({more}); run the same command "
            f"with --resume --grow {min(MOST_GROWTH, result.request.grow + 2)}"
        )
    if result.choice.chosen.fid >= result.yardstick.unboosted:
        lines.append("NO GAIN: no setting has a lower FID than the unboosted images; do not boost with these settings")
    if failed := sum(run.failed for run in result.runs.values()):
        lines.append(f"{failed:,} images of all runs were left as they were: a gradient or logit was not finite")
    warned = list(dict.fromkeys(result.yardstick.start.warnings))
    if result.yardstick.warning is not None:
        warned.append(result.yardstick.warning)
    lines += warned
    lines.append(
        f"these are FIDs of {result.images:,} images: compare them with each other only; the lowest of {len(result.settings)} "
        "is also too low"
    )
    return lines


def describe(setting: Setting) -> str:
    """A setting in words."""
    c = setting.combination
    noise = "" if c.noise is None else f", noise {c.noise:g}"
    return f"{c.update} {setting.steps} x {c.step_size:g}{noise}, {c.objective}"


def figure(value: float) -> str:
    """A FID with as many digits as mean something."""
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _gradients(setting: Setting) -> str:
    """The gradients an image in brackets, where images stopped before the last step."""
    fewer = setting.steps - setting.gradients
    return f" ({setting.gradients:.1f})" if fewer >= 0.05 else ""


def _cell(result: Tuning, setting: Setting) -> str:
    text, choice = figure(setting.fid) + _gradients(setting), result.choice
    if setting in choice.inside:
        text += LIKE_BEST
    if setting == choice.best:
        text += BEST
    if setting == choice.chosen:
        text += CHOSEN
    return text
