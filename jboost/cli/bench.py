"""``jboost bench``: throughput of every engine against eager PyTorch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from . import options
from .early import check_early
from .json_output import STDOUT, write_json
from .options import Debug, split_names
from .paths import check_paths
from .tables import print_results
from .terminal import console

_WHAT, _OUTPUT = "Measurement", "Output"


def bench(
    bundle: Annotated[Path, options.bundle()] = Path("bundle"),
    engine: Annotated[
        str | None,
        typer.Option(
            help="Engines to time, e.g. eager,onnx.", show_default="all that can run the bundle", rich_help_panel=_WHAT
        ),
    ] = None,
    dtype: Annotated[str | None, options.dtypes(_WHAT, default="fp32 and the dtypes of the bundle's graphs")] = None,
    objective: Annotated[str | None, options.objective(_WHAT)] = None,
    resolution: Annotated[
        int | None, typer.Option(help="Image size in pixels.", show_default="the bundle's first", rich_help_panel=_WHAT)
    ] = None,
    batch_size: Annotated[int | None, options.batch_size(_WHAT, default=options.ENGINE_BATCH)] = None,
    device: Annotated[str, options.device(_WHAT)] = "auto",
    trust_code: Annotated[bool, options.trust_code(_WHAT)] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads for every engine.", show_default="OMP_NUM_THREADS, else every core", rich_help_panel=_WHAT
        ),
    ] = None,
    preset: Annotated[
        str,
        typer.Option(help="Preset whose step count converts ms/image-step to images/s.", rich_help_panel=_WHAT),
    ] = "ct1",
    rounds: Annotated[int, typer.Option(help="Timed turns for each engine and baseline.", rich_help_panel=_WHAT)] = 9,
    torch_compile: Annotated[
        bool,
        typer.Option(
            "--torch-compile/--no-torch-compile",
            help="Also time plain torch.compile; it takes about a minute to compile.",
            rich_help_panel=_WHAT,
        ),
    ] = True,
    first_batch: Annotated[
        bool,
        typer.Option(
            "--first-batch/--no-first-batch",
            help="Measure time and memory to the first batch, each in a fresh process.",
            rich_help_panel=_WHAT,
        ),
    ] = True,
    json_file: Annotated[str | None, options.json_file(_OUTPUT)] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the times to this PNG file.", rich_help_panel=_OUTPUT)] = None,
    debug: Debug = False,
) -> None:
    """Time every engine against eager PyTorch and torch.compile, taking turns in one process.

    Example: jboost bench --engine compile,onnx --dtype fp32 --plot bench.png
    """
    _check(bundle, device, threads, json_file, plot)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # before torch is imported; the first-batch processes inherit it
    from jboost.bench.measure import make_plan, run_plan
    from jboost.bench.result import head_rows, notes, table_rows

    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    plan = make_plan(
        bundle,
        engines=split_names(engine),
        dtypes=split_names(dtype),
        objective=objective,
        resolution=resolution,
        batch_size=batch_size,
        device=device,
        preset=preset,
        rounds=rounds,
        torch_compile=torch_compile,
        first_batches=first_batch,
        trust_code=trust_code,
    )
    with console(stderr=True).status("") as status:
        result = run_plan(plan, status.update)
    print_results(head_rows(result), table_rows(result), notes(result), stderr=json_file == STDOUT)
    _write(result, json_file, plot)


def _check(bundle: Path, device: str, threads: int | None, json_file: str | None, plot: Path | None) -> None:
    """Refuse bad options now, before minutes of work."""
    from jboost.engine.backends.registry import ENGINES
    from jboost.engine.errors import BadInputError

    if threads is not None and threads < 1:
        raise BadInputError(f"--threads must be at least 1, got {threads}")
    check_paths(inputs={"--bundle": bundle}, outputs={"--plot": plot}, json_file=json_file)
    check_early(device=device, bundle=bundle)
    if plot is not None:
        from jboost.bench.plot import check_matplotlib

        check_matplotlib()
    torch = ENGINES["eager"].probe()
    if not torch.available:
        raise BadInputError(f"bench compares with eager PyTorch, but {torch.why}; {torch.remedy}")


def _write(result: dict[str, Any], json_file: str | None, plot: Path | None) -> None:
    write_json(result, json_file)
    if plot is not None:
        from jboost.bench.plot import draw

        draw(result, plot)
