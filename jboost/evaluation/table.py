"""An evaluation as rows of text."""

from __future__ import annotations

from pathlib import Path

from .protocols import PROTOCOLS
from .result import METRICS, Evaluation, Measured

#: Follows a number that should not be trusted; a note says why.
MARK = "(!)"


def head_rows(result: Evaluation) -> list[tuple[str, str]]:
    """The rows above the table: reference, protocol, features and bootstrap, which the numbers depend on."""
    count = "" if result.reference_images is None else f", {result.reference_images:,} images"
    identity = result.extractor
    rows = [
        ("reference", f"{result.reference} ({result.reference_kind}{count})"),
        ("protocol", _protocol(result.protocol)),
        (
            "features",
            f"{identity.name}, {identity.source}, {result.dimensions:,} dimensions, SHA-256 {identity.sha256[:16]}",
        ),
    ]
    if result.resamples:
        rows.append(
            (
                "[95%]",
                f"bootstrap, {result.resamples} resamples of the samples, seed {result.seed}; the reference is held fixed",
            )
        )
    return rows


def _protocol(name: str) -> str:
    protocol = PROTOCOLS[name]
    parts = "10 shuffled parts" if protocol.part is None else f"parts of {protocol.part:,} images in their order"
    return f"{name}; Inception Score of {parts}"


def table_rows(result: Evaluation) -> list[tuple[str, ...]]:
    """One row per metric, one column per set; after each set but the first, a column of changes against the first."""
    first, *others = result.samples
    head = ["", "better", Path(first.path).name]
    sizes = ["images", "", f"{first.images:,}"]
    for sample in others:
        head += [Path(sample.path).name, "change"]
        sizes += [f"{sample.images:,}", ""]
    rows = [tuple(head), tuple(sizes)]
    for key, measured in first.metrics.items():
        metric = METRICS[key]
        row = [metric.title, "lower" if metric.lower_is_better else "higher", _number(measured)]
        for sample in others:
            row += [_number(sample.metrics[key]), _change(sample.metrics[key])]
        rows.append(tuple(row))
    return rows


def notes(result: Evaluation) -> list[str]:
    """Warnings, and why numbers are marked or missing; each reason once."""
    lines = list(result.warnings)
    reasons: dict[str, list[str]] = {}
    for sample in result.samples:
        for key, measured in sample.metrics.items():
            what = f"{METRICS[key].title} of {Path(sample.path).name}"
            if measured.warning is not None:
                reasons.setdefault(f"{MARK} {{}}: {measured.warning}", []).append(what)
            if measured.unavailable is not None:
                reasons.setdefault(f"no {{}}: {measured.unavailable}", []).append(what)
    return lines + [reason.replace("{}", ", ".join(whats), 1) for reason, whats in reasons.items()]


def _number(measured: Measured) -> str:
    if measured.value is None:
        return "-"
    text = _digits(measured.value)
    if measured.interval is not None:
        text += f" [{_digits(measured.interval[0])}, {_digits(measured.interval[1])}]"
    if measured.deviation is not None:
        text += f" ± {_digits(measured.deviation)}"
    return text if measured.warning is None else f"{text} {MARK}"


def _change(measured: Measured) -> str:
    if measured.change_percent is None:
        return "-"
    text = f"{measured.change_percent:+.1f}%"
    if measured.change_interval is not None:
        low, high = measured.change_interval
        text += f" [{low:+.1f}, {high:+.1f}]"
    return text


def _digits(value: float) -> str:
    if value != 0 and abs(value) < 1e-3:
        return f"{value:.1e}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.4f}"
