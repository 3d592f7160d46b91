"""Assemble the page and write it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from jboost.engine.errors import BadInputError
from jboost.engine.samples import ReadOptions
from jboost.engine.samples.files import cannot_write
from jboost.engine.samples.options import AS_IT_IS
from jboost.engine.system.commands import make_folder
from jboost.engine.system.replacing import replacing

from . import charts, rows
from .charts import Point, curve
from .inputs import ReportInputs, find_snapshots, open_inputs
from .metrics import Metrics, Yardstick, measure_run
from .selection import by_change, over_classes
from .thumbnails import Thumbnail, Thumbnails, draw_thumbnails

LEAST_IMAGES, MOST_IMAGES = 4, 400

Progress = Callable[[str, int, int], None]


def write_report(
    run: str | Path,
    out: str | Path,
    *,
    samples: Path | None = None,
    boosted: Path | None = None,
    images: int = 24,
    yardstick: Yardstick | None = None,
    reading: ReadOptions = AS_IT_IS,
    on_progress: Progress = lambda what, done, total: None,
) -> None:
    """Write a run's page; `out` is written atomically.

    Args:
        run: file written by `jboost boost --run`.
        out: an .html file.
        samples, boosted: places of the run's sets, if they moved since the run.
        images: number of images to draw: half spread over all classes, a quarter changed most, a quarter changed least.
        yardstick: reference and settings of the metrics; None for a page without metrics.
        reading: how to read the run's sets, where that differs from what the run's file says.
        on_progress: called with the current measurement, the amount done, and the total.

    Raises:
        BadInputError: the run, its sets, the reference or an option cannot be used; nothing is written.
    """
    run, out = Path(run), Path(out)
    _check(out, images)
    inputs = open_inputs(run, samples=samples, boosted=boosted, reading=reading)
    thumbnails, groups = _draw(inputs, images)
    notes = rows.remarks(inputs)
    metrics = None
    if yardstick is not None:
        snapshots, missing = find_snapshots(inputs.run, inputs.boosted.path, inputs.reading)
        notes += missing
        last = inputs.run.summary["steps"]
        sets = {0: inputs.samples.path, **snapshots, last: inputs.boosted.path}
        metrics = measure_run(replace(yardstick, reading=inputs.reading), sets, on_progress)
    page = _render(inputs, notes, metrics, thumbnails, groups)
    try:
        with replacing(out) as aside:
            # The page is UTF-8, but a path need not be valid Unicode.
            aside.write_bytes(page.encode("utf-8", errors="replace"))
    except OSError as e:
        raise cannot_write(out, e) from e


def _check(out: Path, images: int) -> None:
    if out.suffix.lower() not in (".html", ".htm"):
        raise BadInputError(f"output {out} must be an .html file; name one with -o")
    if out.is_dir():
        raise BadInputError(f"output {out} is a folder; name a file with -o")
    if not out.resolve().parent.is_dir():
        raise BadInputError(f"output folder {out.parent} does not exist; make it with: {make_folder(out.parent)}")
    if not LEAST_IMAGES <= images <= MOST_IMAGES:
        raise BadInputError(f"--images must be {LEAST_IMAGES} to {MOST_IMAGES}, got {images}")


def _draw(inputs: ReportInputs, count: int) -> tuple[Thumbnails, list[tuple[str, list[Thumbnail]]]]:
    records = inputs.run.records
    most, least = by_change(records["l2"], count // 4)
    even = over_classes(inputs.labels, len(records), count - 2 * (count // 4))
    thumbnails = draw_thumbnails(inputs, np.concatenate([even, most, least]))
    named = [
        ("Evenly over the set" if inputs.labels is None else "Evenly over the classes", even),
        ("Changed most", most),
        ("Changed least", least),
    ]
    return thumbnails, [(name, [thumbnails.by_index[int(i)] for i in indices]) for name, indices in named]


def _render(
    inputs: ReportInputs,
    notes: list[str],
    metrics: Metrics | None,
    thumbnails: Thumbnails,
    groups: list[tuple[str, list[Thumbnail]]],
) -> str:
    environment = Environment(
        loader=PackageLoader("jboost.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = rows.number
    return environment.get_template("report.html").render(
        run=inputs.run,
        summary=inputs.run.summary,
        shape=inputs.samples.shape,
        samples_name=inputs.samples.path.resolve().name,
        boosted_name=inputs.boosted.path.resolve().name,
        settings=rows.settings_rows(inputs.run),
        figures=rows.figure_rows(inputs.run),
        judgement=rows.judgement_rows(inputs.run),
        classes=rows.class_rows(inputs),
        has_accuracy=inputs.run.summary["accuracy_before"] is not None,
        notes=notes,
        metrics=metrics,
        charts=_model_charts(inputs),
        by_step=_by_step(inputs),
        thumbnails=thumbnails,
        groups=groups,
        frame=charts,
        version=version("jboost"),
    )


def _by_step(inputs: ReportInputs) -> list[dict[str, Any]]:
    """Return the model's own scores by number of steps: step, realness, accuracy."""
    s = inputs.run.summary
    between = [taken for taken in s["snapshots"] if 0 < taken["step"] < s["steps"]]
    ends = [
        {"step": step, "realness": s[f"realness_{when}"], "accuracy": s[f"accuracy_{when}"]}
        for step, when in ((0, "before"), (s["steps"], "after"))
    ]
    return [ends[0], *between, ends[1]] if s["steps"] else ends[:1]


def _model_charts(inputs: ReportInputs) -> list[charts.Chart]:
    s, records = inputs.run.summary, inputs.run.records
    taken = _by_step(inputs)
    l0 = s["l0"] if s["l0"] is not None and math.isfinite(s["l0"]) else None
    level = None if l0 is None else ("l0", l0)
    found = [
        curve("Mean realness over steps", "realness", [Point(t["step"], t["realness"]) for t in taken], level=level),
        None
        if s["accuracy_before"] is None
        else curve(
            "Accuracy over steps",
            "share of images classified as their label",
            [Point(t["step"], t["accuracy"]) for t in taken],
            percent=True,
        ),
        charts.realness_histogram(records["realness_before"], records["realness_after"], l0),
        charts.steps_histogram(records["steps"], s["steps"]),
    ]
    return [chart for chart in found if chart is not None]
