"""Measure a run against a reference: before, at every snapshot, and after the last step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jboost.engine.samples import ReadOptions
from jboost.engine.samples.options import AS_IT_IS

from .charts import Chart, Point, curve

if TYPE_CHECKING:
    from jboost.evaluation import Evaluation


@dataclass(frozen=True)
class Yardstick:
    """Reference and settings of the metrics; the fields are arguments of `jboost.evaluation.evaluate`.

    `write_report` sets `reading`.
    """

    reference: Path
    features: str | None = None
    metrics: tuple[str, ...] | None = None
    device: str = "auto"
    batch_size: int | None = None
    resamples: int = 100
    seed: int = 0
    trust_code: bool = False
    reading: ReadOptions = AS_IT_IS
    features_range: int | None = None
    protocol: str | None = None


@dataclass(frozen=True)
class Metrics:
    """An evaluation as a report shows it.

    Attributes:
        head: settings of the evaluation, rows of name and text.
        rows: rows of name, better direction, before, after, change.
        notes: warnings, and the reasons for marked or missing numbers.
        charts: one curve per metric.
        by_step: numbers behind the curves: number of steps -> metric's title -> value.
    """

    head: list[tuple[str, str]]
    rows: list[tuple[str, ...]]
    notes: list[str]
    charts: list[Chart]
    by_step: dict[int, dict[str, float | None]]


def measure_run(
    yardstick: Yardstick, sets: Mapping[int, Path], on_progress: Callable[[str, int, int], None]
) -> Metrics:
    """Measure `sets`, in ascending order of steps: the first (0) is the samples, the last the boosted set.

    Raises:
        BadInputError: see `jboost.evaluation.evaluate`.
    """
    from jboost.evaluation import evaluate
    from jboost.evaluation.table import head_rows, notes, table_rows

    y = yardstick
    result = evaluate(
        y.reference, list(sets.values()), features=y.features, metrics=y.metrics, batch_size=y.batch_size, device=y.device,
        resamples=y.resamples, seed=y.seed, trust_code=y.trust_code, features_range=y.features_range, protocol=y.protocol,
        reading=y.reading, on_progress=on_progress,
    )  # fmt: skip
    ends = replace(result, samples=[result.samples[0], result.samples[-1]])
    return Metrics(
        head=head_rows(result),
        rows=table_rows(ends)[1:],
        notes=notes(result),
        charts=_charts(result, list(sets)),
        by_step={
            step: {_title(key): number.value for key, number in sample.metrics.items()}
            for step, sample in zip(sets, result.samples, strict=True)
        },
    )


def _charts(result: Evaluation, steps: list[int]) -> list[Chart]:
    from jboost.evaluation import METRICS

    charts = []
    for key in result.samples[0].metrics:
        numbers = [sample.metrics[key] for sample in result.samples]
        points = [Point(x, n.value, n.interval) for x, n in zip(steps, numbers, strict=True) if n.value is not None]
        better = "lower is better" if METRICS[key].lower_is_better else "higher is better"
        chart = curve(METRICS[key].title, better, points)
        if chart is not None:
            charts.append(chart)
    return charts


def _title(key: str) -> str:
    from jboost.evaluation import METRICS

    return METRICS[key].title
