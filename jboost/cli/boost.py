"""``jboost boost``: samples in, boosted samples out."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from jboost.engine.system.replacing import replacing

from . import options
from .json_output import STDOUT, write_json
from .options import Debug, check_side_outputs, console, split_numbers
from .tables import print_columns

if TYPE_CHECKING:
    from rich.console import Console

    from jboost.booster import Booster
    from jboost.engine.loop.run import Progress
    from jboost.engine.method.settings import Settings
    from jboost.engine.results.summary import Summary
    from jboost.engine.samples import SampleSet

_METHOD, _ENGINE, _OUTPUT = "Method", "Engine", "Output"


def boost(
    samples: Annotated[
        Path,
        typer.Argument(
            help="npz (arr_0 uint8 [N,H,W,C], arr_1 labels), or a folder or zip of PNGs.", show_default=False
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Output: .npz, .zip or a folder.",
            show_default="SAMPLES.boosted.npz",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    bundle: Annotated[Path, options.bundle(_ENGINE)] = Path("bundle"),
    engine: Annotated[
        str,
        typer.Option(
            help="auto (the fastest), eager, compile (compiles what the bundle lacks, once), onnx or trt.",
            rich_help_panel=_ENGINE,
        ),
    ] = "auto",
    dtype: Annotated[str, options.dtype(_ENGINE)] = "fp32",
    device: Annotated[str, options.device(_ENGINE)] = "auto",
    batch_size: Annotated[int | None, options.batch_size(_ENGINE, default=options.ENGINE_BATCH)] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Defaults by generator (table 5): ct1, ct2, cd1, cd2, adm, biggan, iddpm; or released-sgld.",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    update: Annotated[
        str | None, typer.Option(help="pgd or sgld.", show_default="pgd", rich_help_panel=_METHOD)
    ] = None,
    objective: Annotated[str | None, options.objective(_METHOD)] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps an image takes at most.", show_default="15", rich_help_panel=_METHOD)
    ] = None,
    step_size: Annotated[
        float | None,
        typer.Option(
            help="pgd: length of a step; sgld: factor of the gradient.",
            show_default="0.1; 0.002",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    eps: Annotated[
        float | None,
        typer.Option(help="pgd: radius of the ball around the input.", show_default="none", rich_help_panel=_METHOD),
    ] = None,
    norm: Annotated[
        str | None, typer.Option(help="pgd: l2 or linf.", show_default="l2", rich_help_panel=_METHOD)
    ] = None,
    noise: Annotated[
        float | None,
        typer.Option(
            help="sgld: standard deviation of a step's noise.", show_default="0.0001", rich_help_panel=_METHOD
        ),
    ] = None,
    early_stop: Annotated[
        bool | None,
        typer.Option(
            "--early-stop/--no-early-stop",
            help="Leave an image alone once its realness reaches l0.",
            show_default="on for joint",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    l0: Annotated[
        float | None,
        typer.Option(
            "--l0", help="Mean realness of real images (eq. 13).", show_default="the bundle's", rich_help_panel=_METHOD
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of sgld's noise.", rich_help_panel=_METHOD)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Resume a killed run.", rich_help_panel=_OUTPUT)] = False,
    grid: Annotated[
        Path | None, typer.Option(help="Draw some images before and after, as PNG.", rich_help_panel=_OUTPUT)
    ] = None,
    snapshots: Annotated[
        str | None,
        typer.Option(
            help="Also write the set after these numbers of steps, e.g. 1,5,10, as OUTPUT.step5.npz.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    run_file: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Record what happened to each image, for `jboost report`: .npz.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    json_file: Annotated[str | None, options.json_file(_OUTPUT)] = None,
    debug: Debug = False,
) -> None:
    """Move each image a few gradient steps towards looking real.

    Example: jboost boost samples.npz --preset ct1 --grid before_after.png
    """
    from jboost.booster import Booster
    from jboost.engine.method.settings import find_preset, make_update
    from jboost.engine.samples import default_output, open_samples

    chosen = find_preset(preset)
    how = make_update(chosen, update=update, steps=steps, step_size=step_size, eps=eps, norm=norm, noise=noise)
    with Booster(bundle, engine=engine, device=device, dtype=dtype, batch_size=batch_size) as booster:
        settings = booster.settings(how, objective=objective, l0=l0, early_stop=early_stop, seed=seed, preset=chosen)
        images = open_samples(samples)
        out = output or default_output(images)
        check_side_outputs(json_file, {"--grid": grid, "--run": run_file})
        steps_kept = split_numbers(snapshots, "--snapshots") or ()
        summary = _run(booster, images, out, settings, resume=resume, snapshots=steps_kept, run_file=run_file)
    _show(summary, out, stderr=json_file == STDOUT)
    if grid is not None:
        _draw(grid, images, out)
    write_json(summary.to_dict(), json_file, stdout_indent=None)


class _ToConsole(logging.Handler):
    """Shows what the engine logs, above the progress bar."""

    def __init__(self, notes: Console):
        super().__init__()
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        self._notes.print(record.getMessage(), style="dim")


def _run(
    booster: Booster,
    images: SampleSet,
    out: Path,
    settings: Settings,
    *,
    resume: bool,
    snapshots: tuple[int, ...],
    run_file: Path | None,
) -> Summary:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from jboost.engine.method.settings import ignores_labels

    notes = console(stderr=True)
    logger = logging.getLogger("jboost")
    logger.setLevel(logging.INFO)
    logger.addHandler(_ToConsole(notes))
    if images.labels is None and not ignores_labels(settings.objective):
        notes.print(
            f"{images.path} has no labels: each image's class is the model's prediction (algorithm 1)", style="dim"
        )
    elif images.labels is not None and ignores_labels(settings.objective):
        notes.print(f"objective {settings.objective} does not use the labels; they are carried through", style="dim")
    columns = (
        TextColumn("boosting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[realness]}"),
    )
    with Bar(*columns, console=notes, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("boosting", total=images.shape[0], rate="", realness="")
        start = perf_counter()

        def on_progress(now: Progress) -> None:
            bar.update(
                task,
                completed=now.before + now.finished,
                rate=f"{now.finished / (perf_counter() - start):.1f} images/s",
                realness="" if now.realness != now.realness else f"realness {now.realness:.2f}",
            )

        return booster.boost_file(
            images, out, settings, resume=resume, snapshots=snapshots, run_file=run_file, on_progress=on_progress
        )


def _show(summary: Summary, out: Path, *, stderr: bool) -> None:
    s = summary
    method = f"{s.update} {s.steps} x {s.step_size:g}, objective {s.objective}"
    if s.objective == "bce" and s.l0 is None:
        method += " (l0 is unknown; joint needs it)"
    rows = [
        ("images", f"{s.images:,}" + (" (classes predicted)" if s.labels == "predicted" else "")),
        ("method", method + (f", l0 {s.l0:.3f}" if s.l0 is not None else "")),
        ("engine", f"{s.engine}, {s.dtype}, {s.device}, batch {s.batch_size}"),
        ("steps used", f"{s.steps_used:.2f} of {s.steps} on average"),
        ("stopped early", f"{s.stopped_early:,}" if s.early_stop else "off"),
        ("time", f"{s.seconds:.1f} s, {s.images_per_second:.1f} images/s"),
        ("peak memory", "unknown" if s.peak_memory is None else f"{s.peak_memory / 2**20:,.0f} MiB"),
        ("realness", f"{s.realness_before:.3f} -> {s.realness_after:.3f}"),
    ]
    if s.accuracy_before is not None and s.accuracy_after is not None:
        rows.append(("accuracy", f"{s.accuracy_before:.1%} -> {s.accuracy_after:.1%} (the model's own)"))
    rows.append(("L2 moved", f"{s.l2_moved:.3f} on average"))
    if s.fallbacks:
        rows.append(("retried in fp32", f"{s.fallbacks:,} (gradient not finite in {s.dtype})"))
    if s.unchanged_after_failure:
        rows.append(("left unchanged", f"{s.unchanged_after_failure:,} (gradient not finite)"))
    for taken in s.snapshots:
        rows.append((f"after {taken['step']} steps", f"realness {taken['realness']:.3f}, {taken['file']}"))
    rows.append(("output", str(out)))
    print_columns(rows, stderr=stderr)


def _draw(path: Path, before: SampleSet, out: Path) -> None:
    from jboost.engine.samples import open_samples
    from jboost.engine.samples.files import cannot_write
    from jboost.grid import draw_grid, pick_evenly

    picks = pick_evenly(before.labels, before.shape[0])
    columns = [] if before.labels is None else [str(before.labels[i]) for i in picks]
    try:
        rows = [("before", before.read(picks)), ("after", open_samples(out).read(picks))]
        with replacing(path) as aside:
            draw_grid(rows, columns).save(aside, "PNG")
    except OSError as e:
        raise cannot_write(path, e) from e
