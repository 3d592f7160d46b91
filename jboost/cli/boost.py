"""``jboost boost``: boost a sample set."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jboost.engine.system.replacing import replacing

from . import options, read_options
from .json_output import STDOUT, write_json
from .notes import log_to
from .on_ray import RayCommand, check_on
from .options import Debug, split_numbers
from .paths import check_paths
from .presets import list_presets
from .shards import ManyOptions, boost_many
from .tables import print_columns
from .terminal import console, is_terminal
from .update_options import take_auto, with_update_options

if TYPE_CHECKING:
    from jboost.booster import Booster
    from jboost.engine.loop.run import Progress
    from jboost.engine.method.settings import Settings
    from jboost.engine.results.summary import Summary
    from jboost.engine.samples import ReadOptions, SampleSet

_METHOD, _ENGINE, _OUTPUT, _SHARDS = "Method", "Engine", "Output", "Shards"


def boost(
    sources: Annotated[
        list[Path],
        typer.Argument(
            metavar="SAMPLES",
            help="Images: npz (arr_0 uint8 [N,H,W,C], arr_1 labels), npy, pt, parquet, or image files in a folder, zip or tar. "
            "Several files, 'shards/{00..09}.tar', 'shards/*.npz' or a folder of such files are shards.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Output: .npz, .npy, .pt, .parquet, .zip or .tar file, or a folder; for shards the folder of their outputs.",
            show_default="SAMPLES.boosted.npz",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    bundle: Annotated[Path, options.bundle(_ENGINE)] = Path("bundle"),
    engine: Annotated[
        str,
        typer.Option(
            help="Engine: auto (the fastest), eager, compile (compiles once what the bundle lacks), onnx or trt.",
            rich_help_panel=_ENGINE,
        ),
    ] = "auto",
    dtype: Annotated[str, options.dtype(_ENGINE)] = "fp32",
    device: Annotated[str, options.device(_ENGINE)] = "auto",
    batch_size: Annotated[int | None, options.batch_size(_ENGINE, default=options.ENGINE_BATCH)] = None,
    trust_code: Annotated[bool, options.trust_code(_ENGINE)] = False,
    preset: Annotated[
        str | None,
        typer.Option(
            help="Defaults: ct1, ct2, cd1, cd2, adm, biggan or iddpm for the paper's generators (table 5); ct1-fast and so on "
            "for the same path in 4 long steps; released-sgld; or one of BIGROC's and DAT's, bigroc-... and dat-...; list "
            "shows all, with their values.",
            callback=list_presets,
            is_eager=True,
            rich_help_panel=_METHOD,
        ),
    ] = None,
    update: str | None = None,
    objective: Annotated[str | None, options.objective(_METHOD)] = None,
    early_stop: Annotated[bool | None, options.early_stop(_METHOD)] = None,
    first_step: Annotated[
        float | None,
        typer.Option(
            help="With --step-size auto: mean length of the first step in grey levels, RMS over an image's values.",
            show_default="sgld: 1; pgd: as far as the gradient keeps its direction",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    l0: Annotated[float | None, options.l0(_METHOD)] = None,
    seed: Annotated[int, typer.Option(help="Seed of sgld's noise.", rich_help_panel=_METHOD)] = 0,
    rounding: Annotated[
        str,
        typer.Option(
            help="How levels are made: nearest, or floor as the released script does (for published figures; not with --eps).",
            rich_help_panel=_METHOD,
        ),
    ] = "nearest",
    labels: Annotated[
        str | None,
        typer.Option(
            help="Classes to climb: given, predicted, or debiased (argmax of f + 1 - mean f over the set: an image's result then "
            "depends on its set).",
            show_default="given, else predicted",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume a killed run; for shards, also begin one.", rich_help_panel=_OUTPUT)
    ] = False,
    lossy: Annotated[
        bool,
        typer.Option(
            "--lossy",
            help="Write JPEGs as JPEGs again, which changes pixels; else they become PNGs.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    grid: Annotated[
        Path | None, typer.Option(help="Draw some images before and after to this PNG file.", rich_help_panel=_OUTPUT)
    ] = None,
    snapshots: Annotated[
        str | None,
        typer.Option(
            help="Also write the set after each of these step counts, e.g. 1,5,10; named like OUTPUT.step5.npz.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    run_file: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Write per-image records to this .npz file for `jboost report`.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    json_file: Annotated[str | None, options.json_file(_OUTPUT)] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            help="Boost only share i of n of the shards: i/n, slurm, torchrun or kubernetes/n.",
            show_default="all",
            rich_help_panel=_SHARDS,
        ),
    ] = None,
    ranges: Annotated[
        int | None,
        typer.Option("--shards", help="Cut one uncompressed npz into this many shards.", rich_help_panel=_SHARDS),
    ] = None,
    devices: Annotated[
        str | None,
        typer.Option(
            help="Use several devices, a process each: all (every GPU), 0,1 or cpu,cpu.", rich_help_panel=_SHARDS
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            help="Make the shards on a Ray cluster: ray.", show_default="this process", rich_help_panel=_SHARDS
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="The Ray cluster: auto (that of this machine) or HOST:PORT.",
            show_default="one of this machine, for this run",
            rich_help_panel=_SHARDS,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Workers on Ray.", show_default="as many as there is room for", rich_help_panel=_SHARDS),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            help="GPUs of a worker on Ray, 0 for none.", show_default="1 if there are any", rich_help_panel=_SHARDS
        ),
    ] = None,
    allow_mixed: Annotated[
        bool,
        typer.Option(
            "--allow-mixed",
            help="Let Ray's machines be of several kinds; results may then differ by a grey level.",
            rich_help_panel=_SHARDS,
        ),
    ] = False,
    images_key: Annotated[str | None, read_options.images_key(read_options.PANEL)] = None,
    labels_key: Annotated[str | None, read_options.labels_key(read_options.PANEL)] = None,
    resize: Annotated[int | None, read_options.resize(read_options.PANEL)] = None,
    background: Annotated[str | None, read_options.background(read_options.PANEL)] = None,
    class_folders: Annotated[str | None, read_options.class_folders(read_options.PANEL)] = None,
    debug: Debug = False,
    **values: float | str | None,
) -> None:
    """Make images look more real: move each a few gradient steps through the joint model.

    Example: jboost boost samples.npz --preset ct1 --grid before_after.png
    """
    from jboost.booster import Booster
    from jboost.engine.errors import FailureError
    from jboost.engine.method.labels import OF_SHARDS, check_not_debiased
    from jboost.engine.method.plugins import find_update_name
    from jboost.engine.method.settings import find_preset, make_update
    from jboost.engine.results.identity import partial_folder
    from jboost.engine.samples import default_output, open_samples, snapshot_output
    from jboost.engine.samples.files import reading_of
    from jboost.engine.shards.plan import is_many
    from jboost.engine.system.commands import in_shell

    reading = read_options.read_options(
        images_key=images_key,
        labels_key=labels_key,
        resize=resize,
        background=background,
        class_folders=class_folders,
    )
    samples = sources[0]
    inputs = {"SAMPLES": samples, "--bundle": bundle}
    check_paths(inputs=inputs)
    only_ray = {
        "--address": address, "--workers": workers, "--gpus-per-worker": gpus_per_worker, "--allow-mixed": allow_mixed or None,
    }  # fmt: skip
    method: dict[str, Any] = {
        "objective": objective, "l0": l0, "early_stop": early_stop, "seed": seed, "rounding": rounding, "labels": labels,
    }  # fmt: skip
    method |= {"step_size": take_auto(values), "first_step": first_step}
    ray = None
    if check_on(on, only_ray, {"--shard": shard, "--devices": devices}):
        ray = RayCommand(address, workers, gpus_per_worker, allow_mixed, update, preset, values, method)
    chosen = find_preset(preset)
    if update is not None:
        update = find_update_name(update, trust_code=trust_code)
    how = make_update(chosen, update=update, **values)

    def settings_of(booster: Booster) -> Settings:
        return booster.settings(how, preset=chosen, **method)

    if shard is not None or ranges is not None or devices is not None or ray is not None or is_many(sources):
        check_not_debiased(labels or (chosen.labels if chosen else None), OF_SHARDS)
        boost_many(
            ManyOptions(
                sources, output, bundle, engine, dtype, device, batch_size, trust_code, shard, ranges, devices, resume, lossy,
                grid, snapshots, run_file, json_file, reading, ray,
            ),
            settings_of,
            show_summary,
        )  # fmt: skip
        return
    with Booster(
        bundle, engine=engine, device=device, dtype=dtype, batch_size=batch_size, trust_code=trust_code
    ) as booster:
        settings = settings_of(booster)
        images = open_samples(samples, replace(reading, channels=booster.bundle.config.in_channels))
        out = output or default_output(images)
        steps_kept = split_numbers(snapshots, "--snapshots") or ()
        written = {"-o": out, "the partial results": partial_folder(out)}
        written |= {f"--snapshots {step}": snapshot_output(out, step) for step in steps_kept}
        check_paths(inputs=inputs, folders=written, outputs={"--grid": grid, "--run": run_file}, json_file=json_file)
        read_options.print_about(images, booster.bundle.config.class_names)
        summary = _run(
            booster,
            images,
            out,
            settings,
            resume=resume,
            snapshots=steps_kept,
            run_file=run_file,
            reading=reading,
            lossy=lossy,
        )
    show_summary(summary, out, stderr=json_file == STDOUT)
    if grid is not None:
        _draw(grid, images, out, reading_of(out, samples, reading, lossy=lossy))
    write_json(summary.to_dict(), json_file, stdout_indent=None)
    if summary.unchanged_after_failure == summary.images:
        raise FailureError(
            f"no image was boosted: every gradient or logit is not finite, so {out} equals the input; check the bundle with: "
            f"jboost verify {in_shell(bundle)}"
        )


def boost_command() -> Callable[..., None]:
    """Return `boost` with the options of every registered update."""
    return with_update_options(boost, after="objective", panel=_METHOD)


def _run(
    booster: Booster,
    images: SampleSet,
    out: Path,
    settings: Settings,
    *,
    resume: bool,
    snapshots: tuple[int, ...],
    run_file: Path | None,
    lossy: bool,
    reading: ReadOptions,
) -> Summary:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from jboost.engine.method.labels import GIVEN, PREDICTED, labels_used
    from jboost.engine.method.settings import ignores_labels
    from jboost.engine.samples import output_kind
    from jboost.engine.samples.outputs import written_as

    notes = console(stderr=True)
    log_to(notes)
    labelled, keeps = images.labels is not None, "the output keeps them"
    used = labels_used(settings.labels, labelled, images.path)
    if not labelled and used == PREDICTED and not ignores_labels(settings.objective):
        notes.print(
            f"{images.path} has no labels: each image's class is the model's prediction (algorithm 1)", style="dim"
        )
    elif labelled and ignores_labels(settings.objective):
        notes.print(f"objective {settings.objective} does not use the labels; {keeps}", style="dim")
    elif labelled and used != GIVEN:
        notes.print(f"--labels {used} does not use the labels of {images.path}; {keeps}", style="dim")
    if (said := written_as(out, output_kind(out), images, lossy=lossy)) is not None:
        notes.print(said, style="dim")
    columns = (
        TextColumn("boosting"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[realness]}"),
    )
    with Bar(*columns, console=notes, transient=True, disable=not is_terminal(sys.stderr)) as bar:
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
            images,
            out,
            settings,
            resume=resume,
            snapshots=snapshots,
            run_file=run_file,
            lossy=lossy,
            reading=reading,
            on_progress=on_progress,
        )


def show_summary(summary: Summary, out: Path, *, stderr: bool) -> None:
    """Print a run in numbers.

    Args:
        summary: the run.
        out: its output.
        stderr: print to stderr, because stdout has the JSON.
    """
    from jboost.engine.method.auto_step import in_words

    s = summary
    aim = in_words(s.first_step, s.straightness)
    auto = "" if aim is None else f" (auto: {aim})"
    within = "" if s.eps is None else f" within {s.norm} {s.eps:g}"
    method = f"{s.update} {s.steps} x {s.step_size:g}{auto}{within}, objective {s.objective}"
    if s.objective == "bce" and s.l0 is None:
        method += " (l0 is unknown; joint needs it)"
    rows = [
        ("images", f"{s.images:,}" + (f" (classes {s.labels})" if s.labels in ("predicted", "debiased") else "")),
        ("method", method + (f", l0 {s.l0:.3f}" if s.l0 is not None else "")),
        *([] if s.rounding == "nearest" else [("rounding", f"{s.rounding}: fractions of a level are cut off")]),
        ("engine", f"{s.engine}, {s.dtype}, {s.device}, batch {s.batch_size}"),
        *((f"instead of {name}", f"which failed: {why}") for name, why in s.engines_failed.items()),
        ("steps used", f"{s.steps_used:.2f} of {s.steps} on average"),
        ("stopped early", f"{s.stopped_early:,}" if s.early_stop else "off"),
        ("time", f"{s.seconds:.1f} s, {s.images_per_second:.1f} images/s"),
        *([] if s.peak_memory is None else [("peak memory", f"{s.peak_memory / 2**20:,.0f} MiB")]),
        ("realness", f"{_figure(s.realness_before)} -> {_figure(s.realness_after)}"),
    ]
    if s.accuracy_before is not None and s.accuracy_after is not None:
        rows.append(("accuracy", f"{s.accuracy_before:.1%} -> {s.accuracy_after:.1%} (the model's own)"))
    rows.append(("L2 moved", f"{s.l2_moved:.3f} on average"))
    if s.fallbacks:
        rows.append(("retried in fp32", f"{s.fallbacks:,} (gradient not finite in {s.dtype})"))
    if s.redone:
        rows.append(("done again", f"{s.redone:,} (what the interrupted run left of them was damaged)"))
    if s.unmoved:
        least = "half a grey level" if s.rounding == "nearest" else "another grey level"
        rows.append(("came back as they were", f"{s.unmoved:,} (no change reached {least})"))
    if s.unchanged_after_failure:
        rows.append(("left unchanged", f"{s.unchanged_after_failure:,} (gradient or logit not finite)"))
    if s.not_finite:
        rows.append(("logit not finite", f"{s.not_finite:,}"))
    if s.not_finite_at:
        more = ", ..." if len(s.not_finite_at) < s.unchanged_after_failure + s.not_finite else ""
        rows.append(("not in the means", f"image {', '.join(map(str, s.not_finite_at))}{more} (counted from 0)"))
    for taken in s.snapshots:
        rows.append((f"after {taken['step']} steps", f"realness {_figure(taken['realness'])}, {taken['file']}"))
    rows.append(("output", str(out) + (f" ({s.lossy})" if s.lossy else "")))
    print_columns(rows, stderr=stderr)


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _draw(path: Path, before: SampleSet, out: Path, reading: ReadOptions) -> None:
    from jboost.engine.samples import open_samples
    from jboost.engine.samples.files import cannot_write
    from jboost.grid import draw_grid, pick_evenly

    picks = pick_evenly(before.labels, before.shape[0])
    columns = [] if before.labels is None else [str(before.labels[i]) for i in picks]
    try:
        rows = [("before", before.read(picks)), ("after", open_samples(out, reading).read(picks))]
        with replacing(path) as aside:
            draw_grid(rows, columns).save(aside, "PNG")
    except OSError as e:
        raise cannot_write(path, e) from e
