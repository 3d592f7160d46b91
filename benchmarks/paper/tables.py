"""The measurements as the tables of the page: means and deviations over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plan import LARGE_SIDE, SIDE
from variants import ABLATION_STEPS, MODELS, NONE, OBJECTIVES, SOURCES


@dataclass(frozen=True)
class Metric:
    """How a number is shown.

    Attributes:
        title: its heading.
        digits: behind the point.
        lower: whether less is better; None: neither.
    """

    title: str
    digits: int
    lower: bool | None = None


METRICS = {
    "fid": Metric("FID", 2, True),
    "precision": Metric("precision", 3, False),
    "recall": Metric("recall", 3, False),
    "steps_used": Metric("steps used", 1),
    "l2_moved": Metric("L2 moved", 2),
}


@dataclass(frozen=True)
class Cell:
    """A number over seeds.

    Attributes:
        values: by seed.
    """

    values: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """The sample's standard deviation over seeds; None of a single one."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

    def show(self, digits: int) -> str:
        """``mean ± deviation``; ``-`` if nothing was measured."""
        if not self.values:
            return "-"
        if self.deviation is None:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {self.deviation:.{digits}f}"


class Results:
    """What a run found, as `run.py` wrote it."""

    def __init__(self, values: Mapping[str, Any]):
        self.values = values
        self._rows = {(row["source"], row["variant"], row["seed"]): row for row in values["measurements"]}
        self.seeds: tuple[int, ...] = tuple(values["plan"]["seeds"])

    def cell(self, source: str, variant: str, key: str) -> Cell:
        """One number over seeds; seeds without it are left out."""
        rows = {seed: self._rows.get((source, variant, seed), {}) for seed in self.seeds}
        return Cell({seed: row[key] for seed, row in rows.items() if row.get(key) is not None})

    def row(self, source: str, variant: str, seed: int) -> Mapping[str, Any]:
        """Everything about one set; empty if it was not measured."""
        return self._rows.get((source, variant, seed), {})


@dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
        title: its name.
        variant: the variant that it shows.
        source: the source, where columns do not say it.
        paper: the row of the paper's table that it corresponds to; None: there is none.
    """

    title: str
    variant: str
    source: str | None = None
    paper: str | None = None


@dataclass(frozen=True)
class Table:
    """A table of the page.

    Attributes:
        key: of it.
        title: its heading.
        paper: the number of the paper's table that it stands for; None: the paper has none.
        lines: its lines.
        columns: source (None: the line's) and metric.
        note: what a reader must know.
    """

    key: str
    title: str
    paper: int | None
    lines: tuple[Line, ...]
    columns: tuple[tuple[str | None, str], ...]
    note: str = ""


_NONE = Line("no boosting", NONE)
_ROWS = {
    "classifier": "RN50 Robust Classifier",
    "plain": "Wide-RN Non-Robust Joint",
    "joint": "RN50 Robust Joint",
    "wide": "Wide-RN Robust Joint",
}
_OBJECTIVE_ROWS = {
    "ce": "RN50 joint model, ℓCE (`ce`)",
    "bce": "RN50 joint model, ℓBCE (`bce`)",
    "ce-bce": "RN50 joint model, ℓCE−ℓBCE (`ce-bce`)",
    "joint": "RN50 joint model, Our loss (`joint`)",
}
_QUALITY = ("fid", "precision", "recall")

TABLES = (
    Table(
        "models", "Models", 1,
        (_NONE, *(Line(MODELS[name].what, name, paper=row) for name, row in _ROWS.items())),
        tuple((source, metric) for source in ("flow1", "flow2") for metric in _QUALITY),
        "Boosting with the classifier follows its cross-entropy, as BIGROC does. Boosting with a joint model follows `joint` "
        "(eq. 12) with early stopping. All models have the same data, iterations and optimizer. The non-robust model has the "
        "small network here and the wide one in the paper.",
    ),
    Table(
        "objectives", "Objectives", 2,
        (_NONE, *(Line(f"`{name}`", name, paper=_OBJECTIVE_ROWS.get(name)) for name in OBJECTIVES)),
        tuple(("flow2", metric) for metric in (*_QUALITY, "steps_used", "l2_moved")),
        "The boosted rows use the small robust joint model. Only `joint` stops early, which is the default of "
        "`jboost boost`. Under PGD, `logit` and `bce` are the same: realness rises with the logit, so their gradients "
        "are parallel, and PGD's steps have unit length.",
    ),
    Table(
        "updates", "PGD against SGLD", 3,
        (
            _NONE, Line("PGD, `joint`", "joint", paper="Wide-RN +PGD"), Line("PGD, `logit`", "logit"),
            Line("SGLD, `logit`", "sgld", paper="Wide-RN +SGLD"),
        ),
        tuple((source, metric) for source in ("flow1", "flow2") for metric in (*_QUALITY, "l2_moved")),
        "The boosted rows use the small robust joint model; the paper's use its wide one. Algorithm 3 climbs `logit`. With "
        "this objective, PGD and SGLD differ only in the update rule.",
    ),
    Table(
        "unseen", "Another generator and another resolution", 4,
        (
            Line("VAE, no boosting", NONE, "vae"),
            Line("VAE, PGD, joint model that never saw its samples", "joint", "vae"),
            Line("VAE, SGLD, the same model", "sgld", "vae"),
            Line(f"{LARGE_SIDE} pixels, no boosting", NONE, "large"),
            Line(f"{LARGE_SIDE} pixels, PGD, the model of {SIDE} pixels", "joint", "large"),
            Line(f"{LARGE_SIDE} pixels, SGLD, the same model", "sgld", "large"),
            Line(f"{LARGE_SIDE} pixels, PGD, a model of its own", "large", "large"),
        ),
        tuple((None, metric) for metric in (*_QUALITY, "steps_used")),
        f"The settings are those of the two-step flow at {SIDE} pixels. The images of {LARGE_SIDE} pixels are enlarged, "
        "real and generated alike, so they test the network at another size, not on finer detail. Their FIDs use a yardstick "
        f"of {LARGE_SIDE} pixels, so compare them only with each other. Their steps are {LARGE_SIDE}/{SIDE} times as long.",
    ),
    Table(
        "stopping", f"Early stopping, at most {ABLATION_STEPS} steps", None,
        (_NONE, Line("stopping at l0", "stop"), Line("not stopping", "no-stop")),
        tuple(("flow2", metric) for metric in (*_QUALITY, "steps_used", "l2_moved")),
        "The boosted rows use the small robust joint model and the objective `joint`.",
    ),
    Table(
        "precision", "float32 against bf16", None,
        (Line("fp32", "joint"), Line("bf16", "bf16")),
        tuple(("flow2", metric) for metric in (*_QUALITY, "l2_moved")),
        "Both rows use the same samples, model and steps, and the image that moves is float32 in both. The engines differ too "
        "(ONNX Runtime in float32, PyTorch in bf16), which adds to the pixel differences.",
    ),
)  # fmt: skip


def render(table: Table, results: Results) -> list[str]:
    """A table as Markdown; the best number of a column is bold."""
    shown = [METRICS[metric] for _, metric in table.columns]
    arrows = {True: " ↓", False: " ↑", None: ""}
    several = len({source for source, _ in table.columns}) > 1
    heads = [
        (f"{SOURCES[source]}: " if several and source is not None else "") + metric.title + arrows[metric.lower]
        for (source, _), metric in zip(table.columns, shown, strict=True)
    ]
    cells = [
        [results.cell(source or line.source or "", line.variant, key) for source, key in table.columns]
        for line in table.lines
    ]
    lines = [f"| | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    best = [
        None if table.columns[0][0] is None else _best(column, metric)
        for column, metric in zip(zip(*cells, strict=True), shown, strict=True)
    ]
    for line, row in zip(table.lines, cells, strict=True):
        texts = [
            f"**{cell.show(metric.digits)}**" if cell is top else cell.show(metric.digits)
            for cell, metric, top in zip(row, shown, best, strict=True)
        ]
        lines.append(f"| {line.title} | {' | '.join(texts)} |")
    return lines


def _best(column: tuple[Cell, ...], metric: Metric) -> Cell | None:
    """The cell with the best mean."""
    there = [cell for cell in column if cell.values]
    if metric.lower is None or len(there) < 2:
        return None
    return (min if metric.lower else max)(there, key=lambda cell: cell.mean)


def render_intervals(results: Results) -> list[str]:
    """Every set's FID by seed, with its bootstrap interval, as Markdown."""
    lines = [
        "| | " + " | ".join(f"seed {seed}" for seed in results.seeds) + " |",
        "|---" * (len(results.seeds) + 1) + "|",
    ]
    names = dict.fromkeys((row["source"], row["variant"]) for row in results.values["measurements"])
    for source, variant in names:
        texts = []
        for seed in results.seeds:
            row = results.row(source, variant, seed)
            interval = row.get("fid_interval")
            value = "-" if row.get("fid") is None else f"{row['fid']:.2f}"
            texts.append(value if interval is None else f"{value} [{interval[0]:.2f}, {interval[1]:.2f}]")
        lines.append(f"| {SOURCES[source]}, {variant} | {' | '.join(texts)} |")
    return lines
