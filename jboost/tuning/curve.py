"""Draw a tuning: FID by steps, a panel for each update and objective, a line for each step size."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from jboost.engine.errors import BadInputError
from jboost.engine.system.replacing import replacing

from .grid import Family
from .result import Tuning
from .table import describe, figure

_STYLES = ("-", "--", ":", "-.")


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(result: Tuning, path: Path) -> None:
    """Draw FID by steps.

    Args:
        result: the tuning.
        path: the PNG to write.

    Raises:
        BadInputError: `path` cannot be written.
    """
    # Not pyplot: it looks for a screen and keeps every figure.
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    updates = list(dict.fromkeys(family.update for family in result.families))
    objectives = list(dict.fromkeys(family.objective for family in result.families))
    picture = Figure(figsize=(1.2 + 5 * len(updates), 1.4 + 3.4 * len(objectives)), dpi=130, layout="constrained")
    panels = picture.subplots(len(objectives), len(updates), sharex=True, sharey=True, squeeze=False)
    best, chosen, unboosted = result.choice.best, result.choice.chosen, result.yardstick.unboosted
    fids = [setting.fid for setting in result.settings]
    for family in result.families:
        axes = panels[objectives.index(family.objective)][updates.index(family.update)]
        shades = colormaps["viridis"]([0.9 * i / max(1, len(family.sizes) - 1) for i in range(len(family.sizes))])
        for combination, _ in family.runs():
            points = sorted((s.steps, s.fid) for s in result.settings if s.combination == combination)
            style = _STYLES[family.noises.index(combination.noise) % len(_STYLES)]
            colour = shades[family.sizes.index(combination.step_size)]
            label = f"{combination.step_size:g}" + (
                "" if combination.noise is None else f", noise {combination.noise:g}"
            )
            axes.plot(
                *zip(*points, strict=True), style, color=colour, marker=".", markersize=4, linewidth=1.3, label=label
            )
        axes.axhline(unboosted, color="#888888", linewidth=1, linestyle=(0, (1, 2)))
        if result.choice.interval is not None:
            axes.axhspan(*result.choice.interval, color="#2563a8", alpha=0.08, linewidth=0)
        for setting, mark in ((best, "*"), (chosen, "o")):
            if setting.combination.family == (family.update, family.objective):
                axes.plot(setting.steps, setting.fid, mark, color="#c0392b", markersize=11, fillstyle="none", zorder=5)
        axes.set_xscale("log")
        axes.set_title(f"{family.update}, objective {family.objective}", fontsize=10, loc="left")
        _legend(axes, family)
        if max(fids) > 4 * min(fids) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_formatter(ScalarFormatter())
        ticks = _ticks(sorted({s.steps for s in result.settings}))
        axes.set_xticks(ticks, [str(step) for step in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
    for row in panels:
        row[0].set_ylabel(f"FID of {result.images:,} images")
    for axes in panels[-1]:
        axes.set_xlabel("steps")
    picture.suptitle(
        f"star: lowest FID ({figure(best.fid)}, its interval shaded); circle: chosen, {describe(chosen)} ({figure(chosen.fid)})\n"
        f"dotted: unboosted ({figure(unboosted)})", fontsize=9,
    )  # fmt: skip
    try:
        with replacing(path) as aside:
            picture.savefig(aside, format="png")
    except OSError as e:
        raise BadInputError(f"{path} cannot be written ({e.strerror or e}); give another -o") from e


def _legend(axes: object, family: Family) -> None:
    columns = 1 + len(family.sizes) * len(family.noises) // 9
    axes.legend(title="step size", fontsize=7, title_fontsize=7, frameon=False, ncols=columns)  # type: ignore[attr-defined]


def _ticks(steps: Sequence[int]) -> list[int]:
    """The step counts that have room on a logarithmic axis."""
    kept: list[int] = []
    for step in steps:
        if not kept or step >= 1.25 * kept[-1]:
            kept.append(step)
    return kept
