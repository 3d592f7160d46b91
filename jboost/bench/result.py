"""Assemble the result as JSON and as a table.

The JSON's keys are stable; `schema` is incremented when a key changes its meaning.

    schema                  1
    machine                 cpu, cores, threads, instruction_set, device, gpu, tf32, platform, python, versions
    work                    bundle, architecture, objective, resolution, batch_size, preset, steps, rounds, warm_up,
                            calls_per_turn, flops_per_image_step
    peaks.<dtype>           matmul_gflops, conv_gflops: the machine's peaks in this run, 10^9 operations per second
    contestants[]           in the order of opening; ratios are relative to the first
      name, kind, dtype     kind is "baseline" (plain PyTorch) or "engine"
      about                 description
      ms_per_image_step     milliseconds of a call over the batch size, median over the rounds; quartiles: q1_ms, q3_ms
      ratio                 eager float32 autograd's median over this one's: above 1 is faster than eager
      images_per_second     1000 / (ms_per_image_step x steps): every image takes all of the preset's steps
      gflops                operations of the *eager* image-step, 10^9 per second: an engine that needs fewer gets the
                            credit
      peak_fraction         gflops over peaks.<dtype>.conv_gflops; null if that peak was not measured
      gradient_difference   difference from the eager float32 gradient on the same inputs: relative, L2, median over the
                            images
      first_batch           null if not requested; else {cached, cold, why}, see below
      early_stopping        null except for engines on a GPU; else what a run would choose if images needed mean_steps of the
                            steps: {mean_steps, status_every: steps between two readings of the row status, waits: for the
                            newest one, relative_time: a run's time over that of its steps alone}
    skipped[]               name, dtype (null: all), why: engines and dtypes that the bundle or the machine does not
                            support, and contestants that failed

first_batch.cached and .cold are null or {seconds, import_seconds, load_seconds, first_call_seconds, peak_mib,
peak_device_mib}: a fresh process until its first gradient. A cold run has an empty compiler cache; it is measured only
for torch.compile. If the first batch failed, first_batch.why holds the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .contestants import ABOUT, Contestant, Skipped
from .flops import gflops
from .machine import Machine
from .peaks import Peak
from .timing import spread

SCHEMA = 1


@dataclass(frozen=True)
class Measured:
    """Measurements of one contestant.

    Attributes:
        contestant: the measured contestant.
        ms: milliseconds per image-step, one per round.
        gradient_difference: relative difference from the yardstick's gradient.
        first_batch: the result's entry of that name; None if not measured.
        early_stopping: the result's entry of that name; None if not measured.
    """

    contestant: Contestant
    ms: Sequence[float]
    gradient_difference: float
    first_batch: dict[str, Any] | None
    early_stopping: dict[str, Any] | None = None


def assemble(
    *,
    machine: Machine,
    work: Mapping[str, Any],
    peaks: Mapping[str, Peak],
    measured: Sequence[Measured],
    skipped: Sequence[Skipped],
) -> dict[str, Any]:
    """Assemble the result and compute the derived figures; `measured` must begin with the yardstick."""
    yardstick = spread(measured[0].ms).median
    return {
        "schema": SCHEMA,
        "machine": asdict(machine),
        "work": dict(work),
        "peaks": {dtype: asdict(peak) for dtype, peak in peaks.items()},
        "contestants": [_entry(m, yardstick, work, peaks.get(m.contestant.dtype)) for m in measured],
        "skipped": [s.to_dict() for s in skipped],
    }


def _entry(measured: Measured, yardstick: float, work: Mapping[str, Any], peak: Peak | None) -> dict[str, Any]:
    took = spread(measured.ms)
    rate = gflops(work["flops_per_image_step"], took.median)
    return {
        "name": measured.contestant.name,
        "kind": measured.contestant.kind,
        "dtype": measured.contestant.dtype,
        "about": ABOUT[measured.contestant.name],
        "ms_per_image_step": took.median,
        "q1_ms": took.q1,
        "q3_ms": took.q3,
        "ratio": yardstick / took.median,
        "images_per_second": 1000 / (took.median * work["steps"]),
        "gflops": rate,
        "peak_fraction": None if peak is None else rate / peak.conv_gflops,
        "gradient_difference": measured.gradient_difference,
        "first_batch": measured.first_batch,
        "early_stopping": measured.early_stopping,
    }


def work_text(work: Mapping[str, Any]) -> str:
    """Describe the computation in one line."""
    w = work
    return (
        f"{w['architecture']}, {w['resolution']}x{w['resolution']}, batch {w['batch_size']}, objective {w['objective']}"
    )


def head_rows(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the machine and the work as rows of name and text."""
    m, w = result["machine"], result["work"]
    cpu = f"{m['cpu']}, {_count(m['cores'], 'core')}, {_count(m['threads'], 'thread')}, {m['instruction_set']}"
    rows = [("machine", cpu)]
    if m["gpu"] is not None:
        rows.append(("gpu", f"{m['gpu']}, TF32 {'on' if m['tf32'] else 'off'}"))
    rows.append(("versions", ", ".join(f"{name} {version}" for name, version in m["versions"].items() if version)))
    rows.append(("work", f"{work_text(w)}, {w['flops_per_image_step'] / 1e9:.4g} GFLOP per image-step"))
    rows += [
        (
            f"peak {dtype}",
            f"convolution {peak['conv_gflops']:,.0f} GFLOP/s, matrix product {peak['matmul_gflops']:,.0f}",
        )
        for dtype, peak in result["peaks"].items()
    ]
    rows.append(
        ("timing", f"medians of {w['rounds']} alternating rounds; images/s with {w['steps']} steps ({w['preset']})")
    )
    return rows


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def table_rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return the table's rows, the heading first; all rows have the same number of columns."""
    head = ("", "dtype", "ms/image-step", "quartiles", "x eager fp32", "images/s", "GFLOP/s", "of peak")
    with_first = any(c["first_batch"] is not None for c in result["contestants"])
    rows: list[tuple[str, ...]] = [(*head, "first batch", "peak MiB") if with_first else head]
    for c in result["contestants"]:
        row = (
            c["name"] + (" (baseline)" if c["kind"] == "baseline" else ""),
            c["dtype"],
            f"{c['ms_per_image_step']:.3g}",
            f"{c['q1_ms']:.3g} to {c['q3_ms']:.3g}",
            f"{c['ratio']:.2f}",
            f"{c['images_per_second']:.3g}",
            f"{c['gflops']:,.0f}" if c["gflops"] >= 10 else f"{c['gflops']:.2g}",
            "" if c["peak_fraction"] is None else f"{c['peak_fraction']:.0%}",
        )
        rows.append((*row, *_first_cells(c["first_batch"])) if with_first else row)
    return rows


def _first_cells(first: Mapping[str, Any] | None) -> tuple[str, str]:
    if first is None or first["cached"] is None:
        return "failed", ""
    cached, cold = first["cached"], first["cold"]
    text = f"{cached['seconds']:.1f} s" + (f" (cold {cold['seconds']:.1f} s)" if cold else "")
    memory = "" if cached["peak_mib"] is None else f"{cached['peak_mib']:,.0f}"
    if cached["peak_device_mib"] is not None:
        memory += f" + {cached['peak_device_mib']:,.0f} on the GPU"
    return text, memory


def notes(result: Mapping[str, Any]) -> list[str]:
    """Return notes on the table: the cost of early stopping, contestants that did not run, and first batches that failed."""
    said = [f"not run: {s['name']}{' ' + s['dtype'] if s['dtype'] else ''}: {s['why']}" for s in result["skipped"]]
    said += [_stopping_text(c, result["work"]["steps"]) for c in result["contestants"] if c["early_stopping"]]
    said += [c["first_batch"]["why"] for c in result["contestants"] if c["first_batch"] and c["first_batch"]["why"]]
    return said


def _stopping_text(contestant: Mapping[str, Any], steps: int) -> str:
    found = contestant["early_stopping"]
    every = "every step" if found["status_every"] == 1 else f"every {found['status_every']} steps"
    return (
        f"{contestant['name']} {contestant['dtype']}: images that stop after {found['mean_steps']:g} of {steps} steps take "
        f"{found['relative_time']:.2f} times the time of their steps, with the row status read {every}"
    )
