"""Format a run's settings and figures as rows of text."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jboost.engine.method.auto_step import in_words
from jboost.engine.method.updates import UPDATES
from jboost.engine.results.moved import why_little_moved
from jboost.engine.results.run_file import RunFile
from jboost.engine.results.summary import counted, update_values

from .inputs import ReportInputs

_MOST_CLASSES = 100
_MOST_LISTED = 20


def number(value: float | None, form: str = ".3f") -> str:
    """Format a figure; a dash if it is missing or not finite."""
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def settings_rows(run: RunFile) -> list[tuple[str, str]]:
    """Return the run's settings and its model."""
    s = run.summary
    objective = s["objective"] + (f", l0 {number(s['l0'], '.4f')}" if s["l0"] is not None else "")
    return [
        ("engine", f"{s['engine']}, {s['dtype']}, {s['device']}"),
        ("batch size", f"{s['batch_size']:,}"),
        ("update", f"{s['update']}, {s['steps']} steps of {number(s['step_size'], 'g')}{_auto(s)}{_update_details(s)}"),
        ("objective", objective),
        ("early stopping", "on" if s["early_stop"] else "off"),
        ("seed", str(s["seed"])),
        ("labels", s["labels"]),
        ("rounding", s["rounding"]),
        ("model", run.model.get("architecture", "unknown")),
        ("checkpoint", f"SHA-256 {run.model.get('sha256', 'unknown')[:16]}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())),
    ]


def _auto(summary: dict[str, Any]) -> str:
    aim = in_words(summary["first_step"], summary["straightness"])
    return "" if aim is None else f", set by auto for {aim}"


def _update_details(summary: dict[str, Any]) -> str:
    """The update's values besides steps and step size, words before numbers."""
    update = UPDATES.get(summary["update"])  # None where the update of the run is not registered
    words: list[str] = []
    numbers: list[str] = []
    for name, value in update_values(summary).items():
        if value is None:
            continue
        form = update.options[name].option.shown if update is not None and name in update.options else ""
        text = number(value, "g") if isinstance(value, float) else str(value)
        try:
            text = form.format(value) if form else f"{name.replace('_', ' ')} {text}"
        except (ValueError, TypeError):  # the file's value is of another type than the update's
            text = f"{name} {text}"
        (words if isinstance(value, str) else numbers).append(text)
    return f" ({', '.join(words + numbers)})" if words or numbers else ""


def figure_rows(run: RunFile) -> list[tuple[str, str]]:
    """Return the run's figures, except realness and accuracy."""
    s, l2 = run.summary, run.records["l2"].astype(np.float64)
    rows = [
        ("steps used", f"{number(s['steps_used'], '.2f')} of {s['steps']} on average"),
        (
            "stopped early",
            f"{s['stopped_early']:,} ({s['stopped_early'] / s['images']:.1%})" if s["early_stop"] else "off",
        ),
        ("L2 moved", f"{number(s['l2_moved'])} on average, median {np.median(l2):.3f}, at most {l2.max():.3f}"),
        ("time", f"{number(s['seconds'], '.1f')} s, {number(s['images_per_second'], '.1f')} images/s"),
        ("retried in fp32", f"{s['fallbacks']:,}"),
        ("failed, left unchanged", f"{s['unchanged_after_failure']:,}"),
    ]
    rows += [("engine passed over", f"{name}: {why}") for name, why in s["engines_failed"].items()]
    if s["peak_memory"] is not None:
        rows.insert(4, ("peak memory", f"{s['peak_memory'] / 2**20:,.0f} MiB"))
    return rows


def judgement_rows(run: RunFile) -> list[tuple[str, str, str, str]]:
    """Return the model's own scores: name, before, after, change."""
    s = run.summary
    before, after = s["realness_before"], s["realness_after"]
    rows = [("realness, mean", number(before), number(after), number(after - before, "+.3f"))]
    if s["accuracy_before"] is not None:
        before, after = s["accuracy_before"], s["accuracy_after"]
        rows.append(
            (
                "accuracy",
                number(before, ".1%"),
                number(after, ".1%"),
                number(100 * (after - before), "+.1f") + " points",
            )
        )
    return rows


def class_rows(inputs: ReportInputs) -> list[tuple[str, ...]] | None:
    """Return one row per class; None without labels or with too many classes.

    The columns are name, images, realness before and after, accuracy before and after, steps, L2.
    """
    labels, records = inputs.labels, inputs.run.records
    if labels is None or len(classes := np.unique(labels)) > _MOST_CLASSES:
        return None
    rows = []
    for c in classes.tolist():
        own = records[labels == c]

        known = own[counted(own)]

        def mean(field: str, form: str, own: Any = own) -> str:
            return number(float(own[field].astype(np.float64).mean()) if len(own) else None, form)

        rows.append(
            (
                inputs.class_name(c),
                f"{len(own):,}",
                *(mean(f"realness_{when}", ".3f", known) for when in ("before", "after")),
                *(mean(f"correct_{when}", ".1%", known) for when in ("before", "after")),
                mean("steps", ".2f"),
                mean("l2", ".3f"),
            )
        )
    return rows


def remarks(inputs: ReportInputs) -> list[str]:
    """Return the notes of the page: failures, retries, unmoved images, missing labels."""
    run, out = inputs.run, []
    records = run.records
    failed = np.flatnonzero(records["failed"])
    retried = np.flatnonzero(records["retried"] & ~records["failed"])
    if len(failed):
        out.append(
            f"{_images(failed)}: the gradient or logit was not finite, even in float32, so {_it(failed)} stayed unchanged."
        )
    unknown = np.flatnonzero(~counted(records) & ~records["failed"])
    if len(unknown):
        out.append(
            f"{_images(unknown)}: the network gives no finite logit. No mean of realness or accuracy counts these."
        )
    if len(retried):
        out.append(f"{_images(retried)}: the gradient was not finite in {run.summary['dtype']}; retried in float32.")
    still = int(((records["l2"] == 0) & ~records["failed"]).sum())
    if still:
        out.append(f"{still:,} of {len(records):,} images did not move.")
    if (why := why_little_moved(run.summary, math.prod(inputs.samples.shape[1:]))) is not None:
        out.append(f"{why[0].upper()}{why[1:]}.")
    if run.summary["labels"] == "debiased":
        out.append("Each image's class is argmax of f + 1 - mean f over the set, so it depends on the set.")
    elif inputs.labels is None:
        out.append("The samples have no labels, so each image's class is the model's prediction.")
    elif run.summary["labels"] == "predicted":
        out.append("The samples' labels were not used: each image's class is the model's prediction.")
    if inputs.labels is not None and (classes := len(np.unique(inputs.labels))) > _MOST_CLASSES:
        out.append(f"There is no table by class: {classes:,} classes are too many.")
    return out


def _it(indices: np.ndarray[Any, Any]) -> str:
    return "it" if len(indices) == 1 else "they"


def _images(indices: np.ndarray[Any, Any]) -> str:
    listed = ", ".join(str(i) for i in indices[:_MOST_LISTED])
    more = ", …" if len(indices) > _MOST_LISTED else ""
    return f"{len(indices):,} image{'' if len(indices) == 1 else 's'} ({listed}{more})"
