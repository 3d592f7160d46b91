"""The page's plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from fewer_found import Found
from fewer_plan import METHODS, PRESET_LENGTH, SETTINGS, SHOWN, Setting
from matplotlib import pyplot as plt
from matplotlib.ticker import FixedLocator, FormatStrFormatter, MaxNLocator, NullLocator
from tables import TABLES, Results
from variants import SOURCES

_COLOURS = ("#4477aa", "#ee6677")


def plot_distances(path: Path, results: Results, key: str, sources: Sequence[str]) -> bool:
    """FID by line of a table: a bar is the mean over seeds, a dot a seed. False if nothing was measured."""
    table = next(table for table in TABLES if table.key == key)
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.3 * len(table.lines) * len(sources)))
    height, drawn = 0.8 / len(sources), False
    for i, source in enumerate(sources):
        for place, line in enumerate(table.lines):
            cell = results.cell(source, line.variant, "fid")
            if not cell.values:
                continue
            y = place + (i - (len(sources) - 1) / 2) * height
            label = SOURCES[source] if place == 0 else None
            axes.barh(y, cell.mean, height * 0.9, color=_COLOURS[i % len(_COLOURS)], alpha=0.7, label=label)
            axes.plot(list(cell.values.values()), [y] * len(cell.values), "k.", markersize=5)
            drawn = True
    axes.set_yticks(range(len(table.lines)), [line.title.replace("`", "") for line in table.lines])
    axes.invert_yaxis()
    axes.set_xlabel("FID in the yardstick's features (bar: mean over seeds, dots: seeds); lower is better")
    axes.spines[["top", "right"]].set_visible(False)
    if len(sources) > 1 and drawn:
        axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(sources))
    return _save(figure, path, drawn)


def plot_steps(path: Path, results: Results) -> bool:
    """FID of the tuning samples over the number of steps, at each line's chosen step size. False if nothing was tuned."""
    figure, axes = plt.subplots(figsize=(8, 3.6))
    tuning: dict[str, Any] = results.values["tuning"]
    curves: dict[tuple[tuple[int, ...], tuple[float, ...]], list[str]] = {}
    for name, found in tuning.items():
        source, variant = name.split(".", 1)
        if source != "flow2":
            continue
        at = dict(zip(found["chosen"][::2], found["chosen"][1::2], strict=True))
        size, noise = float(at["--step-size"]), float(at.get("--noise", 0.0))
        there = sorted(
            (one["steps"], round(one["fid"], 2))
            for one in found["tried"]
            if (one["size"], one["noise"] or 0.0) == (size, noise)
        )
        steps, distances = zip(*there, strict=True)
        curves.setdefault((steps, distances), []).append(f"{variant} x {size:g}")
    for (steps, distances), variants in curves.items():  # one line for those that are the same
        axes.plot(steps, distances, "o-", label=", ".join(variants), linewidth=1.2, markersize=4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yscale("log")  # without early stopping, too many steps cost ten times the lowest FID
    axes.yaxis.set_major_locator(FixedLocator((5, 7, 10, 15, 20, 30, 50, 70)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("steps")
    axes.set_ylabel("FID to training images")
    axes.spines[["top", "right"]].set_visible(False)
    if curves:
        axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return _save(figure, path, bool(curves))


def plot_gradients(path: Path, found: Found) -> bool:
    """FID over the gradients that an image takes, a panel for each setting. False if nothing was measured."""
    shown = [setting for setting in SETTINGS if found.lengths(setting, "stop")]
    columns = min(3, max(1, len(shown)))
    rows = -(-len(shown) // columns) or 1
    figure, panels = plt.subplots(rows, columns, figsize=(3.1 * columns, 2.5 * rows), squeeze=False)
    drawn = False
    for axes, setting in zip(panels.flat, shown, strict=False):
        for colour, (name, method) in zip(("#4477aa", "#ee6677", "#228833", "#ccbb44"), METHODS.items(), strict=True):
            at = [(length, steps) for steps, length in found.lengths(setting, name).items() if steps in SHOWN]
            drawn |= _curve(axes, found, setting, name, at, fmt="o-", color=colour, label=method.what.replace("`", ""))
        if setting.preset:
            _curve(
                axes,
                found,
                setting,
                "stop",
                [(PRESET_LENGTH, setting.preset)],
                fmt="D",
                color="k",
                label="the paper's preset",
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator((1, 2, 3, 5, 10, 20, 30)))
        axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.margins(y=0.1)
        axes.set_ylim(bottom=0)
        axes.set_title(f"{SOURCES[setting.source]}; {setting.model}", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(shown) :]:
        axes.set_visible(False)
    handles = {
        label: handle for axes in panels.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(handles.values(), handles.keys(), frameon=False, fontsize=8, ncols=2, loc="upper center")
    figure.supxlabel("gradients an image (mean)", fontsize=9)
    figure.supylabel("FID", fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.45 / (2.5 * rows)))
    return _save(figure, path, drawn)


def _curve(
    axes: Any, found: Found, setting: Setting, method: str, at: Sequence[tuple[float, int]], **style: Any
) -> bool:
    """FID over gradients at some (length, steps): means and deviations over seeds. False if nothing was measured."""
    points = []
    for length, steps in at:
        x, y = (found.cell(setting, method, length, steps, key) for key in ("gradients", "fid"))
        if y.values:
            points.append((x.mean, y.mean, y.deviation or 0.0))
    if points:
        x, y, e = zip(*sorted(points), strict=True)
        axes.errorbar(x, y, e, linewidth=1.1, markersize=3, capsize=2, **style)
    return bool(points)


def _save(figure: Any, path: Path, drawn: bool) -> bool:
    if drawn:
        figure.savefig(path, dpi=100, bbox_inches="tight")
    plt.close(figure)
    return drawn
