"""``jboost report``: write a finished run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options, read_options
from .early import check_early
from .options import Debug, split_names
from .paths import check_paths, if_path
from .progress import Bars
from .terminal import print_line

_SETS, _METRICS = "Sample sets", "Metrics"


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="File that `jboost boost --run FILE` wrote.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path("report.html"),
    images: Annotated[
        int,
        typer.Option(
            help="Images to draw, 4 to 400: half spread over all classes, a quarter changed most, a quarter changed least."
        ),
    ] = 24,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--ref",
            help="Real images or their statistics, as for `jboost eval`; input, snapshots and output are measured against them.",
            rich_help_panel=_METRICS,
        ),
    ] = None,
    features: Annotated[str | None, options.features(_METRICS)] = None,
    features_range: Annotated[int | None, options.features_range(_METRICS)] = None,
    trust_code: Annotated[bool, options.trust_features(_METRICS)] = False,
    protocol: Annotated[str | None, options.protocol(_METRICS)] = None,
    metrics: Annotated[str | None, options.metrics(_METRICS)] = None,
    bootstrap: Annotated[int, options.bootstrap(_METRICS)] = 100,
    seed: Annotated[int, options.bootstrap_seed(_METRICS)] = 0,
    device: Annotated[str, options.device(_METRICS)] = "auto",
    batch_size: Annotated[int | None, options.batch_size(_METRICS, default=options.FEATURE_BATCH)] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="The run's input.", show_default="the path recorded in RUN", rich_help_panel=_SETS),
    ] = None,
    boosted: Annotated[
        Path | None,
        typer.Option(help="The run's output.", show_default="the path recorded in RUN", rich_help_panel=_SETS),
    ] = None,
    images_key: Annotated[str | None, read_options.images_key(read_options.PANEL)] = None,
    labels_key: Annotated[str | None, read_options.labels_key(read_options.PANEL)] = None,
    resize: Annotated[int | None, read_options.resize(read_options.PANEL)] = None,
    background: Annotated[str | None, read_options.background(read_options.PANEL)] = None,
    class_folders: Annotated[str | None, read_options.class_folders(read_options.PANEL)] = None,
    debug: Debug = False,
) -> None:
    """Write a run as one HTML page: settings, curves, histograms, images before and after, metrics.

    First record the run: jboost boost samples.npz --run run.npz --snapshots 1,5,10

    Example: jboost report run.npz -o report.html
    """
    from jboost.engine.errors import BadInputError

    reading = read_options.read_options(
        images_key=images_key,
        labels_key=labels_key,
        resize=resize,
        background=background,
        class_folders=class_folders,
    )
    inputs = {
        "RUN": run,
        "--ref": reference,
        "--samples": samples,
        "--boosted": boosted,
        "--features": if_path(features),
    }
    check_paths(inputs=inputs, folders={"-o": output}, replaced=False)
    if reference is None:
        for option, value in (("--features", features), ("--protocol", protocol), ("--metrics", metrics)):
            if value is not None:
                raise BadInputError(f"{option} needs --ref: the real images to measure against")
    check_early(device=device)
    from jboost.report import write_report
    from jboost.report.metrics import Yardstick

    yardstick = None
    if reference is not None:
        yardstick = Yardstick(
            reference, features, split_names(metrics), device, batch_size, bootstrap, seed, trust_code,
            features_range=features_range, protocol=protocol,
        )  # fmt: skip
    with Bars() as bars:
        write_report(
            run,
            output,
            samples=samples,
            boosted=boosted,
            images=images,
            yardstick=yardstick,
            reading=reading,
            on_progress=bars.show,
        )
    print_line(f"{output} ({output.stat().st_size / 1e6:.1f} MB)")
