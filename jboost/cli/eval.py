"""``jboost eval``: sample sets against a reference, in the numbers of the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jboost.engine.system.replacing import replacing

from .options import Debug, Measuring, check_side_outputs, console
from .progress import Bars
from .tables import print_columns

if TYPE_CHECKING:
    from jboost.evaluation import Evaluation

_WHAT, _OUTPUT = "What is measured", "Output"
_MEASURING = Measuring(_WHAT)


def evaluate_sets(
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REF",
            help="Real images: npz, a folder or zip of PNGs, what --save-features wrote, or an npz with mu and sigma.",
            show_default=False,
        ),
    ],
    samples: Annotated[
        list[Path],
        typer.Argument(
            metavar="SAMPLES", help="Sets to measure; the others' change is against the first.", show_default=False
        ),
    ],
    features: Annotated[
        str | None,
        typer.Option(
            help="Feature extractor: Inception's weights (pt_inception-2015-12-05-6726825d.pth), an .onnx, TorchScript or "
            ".pt2 file, package.module:factory, or a bundle's folder.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    metrics: Annotated[str | None, _MEASURING.metrics] = None,
    bootstrap: Annotated[int, _MEASURING.bootstrap] = 100,
    seed: Annotated[int, _MEASURING.seed] = 0,
    device: Annotated[str, _MEASURING.device] = "auto",
    batch_size: Annotated[int | None, _MEASURING.batch_size] = None,
    save_features: Annotated[
        Path | None,
        typer.Option(help="Keep REF's features as npz, to give as REF next time.", rich_help_panel=_OUTPUT),
    ] = None,
    json_file: Annotated[
        str | None, typer.Option("--json", help="Write everything as JSON; - is stdout.", rich_help_panel=_OUTPUT)
    ] = None,
    debug: Debug = False,
) -> None:
    """Measure FID, sFID, KID, Inception Score, precision, recall, density and coverage.

    Example: jboost eval ref.npz samples.npz samples.boosted.npz --features pt_inception-2015-12-05-6726825d.pth
    """
    check_side_outputs(json_file, {"--save-features": save_features})
    from jboost.evaluation import evaluate

    with Bars() as bars:
        result = evaluate(
            reference,
            samples,
            features=features,
            metrics=None if metrics is None else metrics.split(","),
            batch_size=batch_size,
            device=device,
            resamples=bootstrap,
            seed=seed,
            save=save_features,
            on_progress=bars.show,
        )
    _show(result, stderr=json_file == "-")
    if json_file == "-":
        print(json.dumps(result.to_dict(), indent=2))
    elif json_file is not None:
        with replacing(json_file) as aside:
            aside.write_text(json.dumps(result.to_dict(), indent=2) + "\n", encoding="utf-8")


def _show(result: Evaluation, *, stderr: bool) -> None:
    from jboost.evaluation.table import head_rows, notes, table_rows

    print_columns(head_rows(result), stderr=stderr)
    print_columns([("",)], stderr=stderr)
    print_columns(table_rows(result), stderr=stderr)
    out = console(stderr=stderr)
    for note in notes(result):
        out.print(note, style="dim", markup=False)
