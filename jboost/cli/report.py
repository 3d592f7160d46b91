"""``jboost report``: a finished run as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Debug, Measuring

_SETS, _METRICS = "Where the sets are", "Metrics"
_MEASURING = Measuring(_METRICS)


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="What `jboost boost --run FILE` kept.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page.")] = Path("report.html"),
    images: Annotated[
        int,
        typer.Option(
            help="Images to draw, 4 to 400: half over all classes, a quarter changed most, a quarter changed least."
        ),
    ] = 24,
    reference: Annotated[
        Path | None,
        typer.Option(
            "--ref",
            help="Real images or their statistics, as `jboost eval` takes them: measures before, snapshots and after.",
            rich_help_panel=_METRICS,
        ),
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Feature extractor, as for `jboost eval`.", rich_help_panel=_METRICS)
    ] = None,
    metrics: Annotated[str | None, _MEASURING.metrics] = None,
    bootstrap: Annotated[int, _MEASURING.bootstrap] = 100,
    seed: Annotated[int, _MEASURING.seed] = 0,
    device: Annotated[str, _MEASURING.device] = "auto",
    batch_size: Annotated[int | None, _MEASURING.batch_size] = None,
    samples: Annotated[
        Path | None,
        typer.Option(help="The run's input.", show_default="where it was", rich_help_panel=_SETS),
    ] = None,
    boosted: Annotated[
        Path | None,
        typer.Option(help="The run's output.", show_default="where it was", rich_help_panel=_SETS),
    ] = None,
    debug: Debug = False,
) -> None:
    """Draw a run as one HTML page: settings, curves, histograms, images before and after, metrics.

    Example: jboost boost samples.npz --run run.npz --snapshots 1,5,10, then: jboost report run.npz -o report.html
    """
    from jboost.engine.errors import BadInputError
    from jboost.report import write_report
    from jboost.report.metrics import Yardstick

    from .progress import Bars

    if reference is None:
        for option, value in (("--features", features), ("--metrics", metrics)):
            if value is not None:
                raise BadInputError(f"{option} needs --ref: the real images to measure against")
    yardstick = None
    if reference is not None:
        wanted = None if metrics is None else tuple(metrics.split(","))
        yardstick = Yardstick(reference, features, wanted, device, batch_size, bootstrap, seed)
    with Bars() as bars:
        write_report(
            run,
            output,
            samples=samples,
            boosted=boosted,
            images=images,
            yardstick=yardstick,
            on_progress=bars.show,
        )
    print(f"{output} ({output.stat().st_size / 1e6:.1f} MB)")
