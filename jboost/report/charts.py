"""Compute coordinates of curves and histograms; the template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from .axis import Axis, Tick, round_values

#: Size of every chart in its own coordinates, and the frame around the data.
WIDTH, HEIGHT = 340, 216
LEFT, RIGHT, TOP, BOTTOM = 50, 328, 26, 176

Floats = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Point:
    """A value to draw: `y` at `x`, with its interval or None."""

    x: float
    y: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Dot:
    """A point in drawing coordinates, with its value as text and the ends of its interval."""

    x: float
    y: float
    text: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Bar:
    """A bar in drawing coordinates, with its value as text."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Rule:
    """A labelled dashed line across the frame, at a `y` or at an `x`."""

    text: str
    y: float | None = None
    x: float | None = None


@dataclass
class Chart:
    """A chart as the template draws it.

    Attributes:
        title, description: title, and the chart's contents in words.
        x_label, y_label: labels of the axes.
        x_ticks, y_ticks: ticks of the axes.
        dots: points of a curve, joined by lines.
        bars: bars by series, ``"before"`` and ``"after"``; a single series is ``"after"``.
        rules: lines across the frame.
    """

    title: str
    description: str
    x_label: str
    y_label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    dots: list[Dot] = field(default_factory=list)
    bars: dict[str, list[Bar]] = field(default_factory=dict)
    rules: list[Rule] = field(default_factory=list)


def curve(
    title: str, y_label: str, points: Sequence[Point], *, level: tuple[str, float] | None = None, percent: bool = False
) -> Chart | None:
    """Draw values over the number of steps.

    Args:
        title: title of the chart.
        y_label: label of the values.
        points: points in ascending order of `x`, the number of steps; points without a finite value are left out.
        level: name and value of a level to compare the curve with.
        percent: the values are shares.

    Returns:
        The chart; None with fewer than two finite values.
    """
    points = [p for p in points if math.isfinite(p.y)]
    if len(points) < 2:
        return None
    values = [p.y for p in points] + [v for p in points for v in p.interval or ()] + ([level[1]] if level else [])
    low, high = min(values), max(values)
    marked = round_values(0.0 if 0 < low < high / 2 else low, high)
    x = Axis(0, points[-1].x, LEFT, RIGHT, round_values(0, points[-1].x, whole=True))
    y = Axis(marked[0], marked[-1], BOTTOM, TOP, marked, percent=percent)

    def words(value: float) -> str:
        return f"{value:.1%}" if percent else f"{value:.4g}"

    dots = [
        Dot(
            x.place(p.x),
            y.place(p.y),
            f"{p.x:g} steps: {words(p.y)}",
            *(() if p.interval is None else (y.place(p.interval[0]), y.place(p.interval[1]))),
        )
        for p in points
    ]
    said = f"{y_label}: " + ", ".join(dot.text for dot in dots)
    rules = [Rule(f"{level[0]} {words(level[1])}", y=y.place(level[1]))] if level else []
    if level:
        said += f"; {level[0]} is {words(level[1])}"
    return Chart(title, said, "steps", y_label, x.ticks, y.ticks, dots=dots, rules=rules)


def steps_histogram(steps: Floats, most: int) -> Chart:
    """Draw the histogram of steps taken, `steps` [N] from 0 to `most`."""
    width = -(-(most + 1) // 40)
    edges = np.arange(0, most + 1 + width, width) - 0.5
    last = edges[:-1] + 0.5 + width - 1
    names = [
        f"{a + 0.5:g} steps" if width == 1 else f"{a + 0.5:g} to {b:g} steps"
        for a, b in zip(edges[:-1], last, strict=True)
    ]
    counts = np.histogram(steps, edges)[0]
    x = Axis(edges[0], edges[-1], LEFT, RIGHT, round_values(0, most, whole=True))
    words = f"{len(steps):,} images took {steps.mean():.2f} steps on average, {int(steps.min())} to {int(steps.max())}"
    return _histogram("Steps used", words, "steps", x, edges, {"after": counts}, names)


def realness_histogram(before: Floats, after: Floats, l0: float | None) -> Chart | None:
    """Draw the distribution of realness before and after, [N] each; None if either has no finite value."""
    before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    if not len(before) or not len(after):
        return None
    values = np.concatenate([before, after, [] if l0 is None else [l0]])
    marked = round_values(float(values.min()), float(values.max()))
    edges = np.linspace(marked[0], marked[-1], 41)
    names = [f"{a:.3g} to {b:.3g}" for a, b in pairwise(edges)]
    x = Axis(edges[0], edges[-1], LEFT, RIGHT, marked)
    words = (
        f"median {np.median(before):.3f} before ({before.min():.3f} to {before.max():.3f}), "
        f"{np.median(after):.3f} after ({after.min():.3f} to {after.max():.3f})"
    )
    counts = {name: np.histogram(v, edges)[0] for name, v in (("before", before), ("after", after))}
    chart = _histogram("Realness", words, "realness", x, edges, counts, names)
    if l0 is not None:
        chart.rules.append(Rule(f"l0 {l0:.4g}", x=x.place(l0)))
    return chart


def _histogram(
    title: str, words: str, x_label: str, x: Axis, edges: Floats, counts: dict[str, Floats], names: list[str]
) -> Chart:
    marked = round_values(0, max(int(c.max()) for c in counts.values()), whole=True)
    y = Axis(0, marked[-1], BOTTOM, TOP, marked)
    bars = {
        series: [
            Bar(
                x.place(a),
                y.place(count),
                round(x.place(b) - x.place(a), 2),
                round(BOTTOM - y.place(count), 2),
                f"{name}: {count:,} images" + (f" {series}" if len(counts) > 1 else ""),
            )
            for a, b, count, name in zip(edges[:-1], edges[1:], of.tolist(), names, strict=True)
            if count
        ]
        for series, of in counts.items()
    }
    return Chart(title, words, x_label, "images", x.ticks, y.ticks, bars=bars)
