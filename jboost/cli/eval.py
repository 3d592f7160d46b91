"""``jboost eval``: measure sample sets against a reference with the usual metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import options, read_options
from .early import check_early
from .json_output import STDOUT, write_json
from .options import Debug, split_names
from .paths import check_paths, if_path
from .progress import Bars
from .tables import print_results

if TYPE_CHECKING:
    from jboost.engine.samples import SampleSet

_WHAT, _OUTPUT = "Measurement", "Output"


def evaluate_sets(
    reference: Annotated[
        Path,
        typer.Argument(
            metavar="REF",
            help="Real images (npz, folder, zip or tar of images), a file from --save-features, or an npz with mu and sigma.",
            show_default=False,
        ),
    ],
    samples: Annotated[
        list[Path],
        typer.Argument(
            metavar="SAMPLES", help="Sample sets to measure; changes are relative to the first.", show_default=False
        ),
    ],
    features: Annotated[str | None, options.features(_WHAT)] = None,
    features_range: Annotated[int | None, options.features_range(_WHAT)] = None,
    protocol: Annotated[str | None, options.protocol(_WHAT)] = None,
    metrics: Annotated[str | None, options.metrics(_WHAT)] = None,
    bootstrap: Annotated[int, options.bootstrap(_WHAT)] = 100,
    seed: Annotated[int, options.bootstrap_seed(_WHAT)] = 0,
    device: Annotated[str, options.device(_WHAT)] = "auto",
    batch_size: Annotated[int | None, options.batch_size(_WHAT, default=options.FEATURE_BATCH)] = None,
    trust_code: Annotated[bool, options.trust_features(_WHAT)] = False,
    save_features: Annotated[
        Path | None,
        typer.Option(help="Write REF's features to this npz file; pass it as REF next time.", rich_help_panel=_OUTPUT),
    ] = None,
    json_file: Annotated[str | None, options.json_file(_OUTPUT)] = None,
    images_key: Annotated[str | None, read_options.images_key(read_options.PANEL)] = None,
    labels_key: Annotated[str | None, read_options.labels_key(read_options.PANEL)] = None,
    channels: Annotated[int | None, read_options.channels(read_options.PANEL)] = None,
    resize: Annotated[int | None, read_options.resize(read_options.PANEL)] = None,
    background: Annotated[str | None, read_options.background(read_options.PANEL)] = None,
    class_folders: Annotated[str | None, read_options.class_folders(read_options.PANEL)] = None,
    debug: Debug = False,
) -> None:
    """Measure FID, sFID, KID, Inception Score, precision, recall, density and coverage of sample sets.

    Example: jboost eval ref.npz samples.npz samples.boosted.npz --features pt_inception-2015-12-05-6726825d.pth
    """
    check_paths(
        inputs={
            "REF": reference,
            **{f"SAMPLES {i}": path for i, path in enumerate(samples, 1)},
            "--features": if_path(features),
        },
        outputs={"--save-features": save_features},
        json_file=json_file,
    )
    reading = read_options.read_options(
        images_key=images_key,
        labels_key=labels_key,
        channels=channels,
        resize=resize,
        background=background,
        class_folders=class_folders,
    )
    check_early(device=device, samples=[reference, *samples])
    from jboost.evaluation import evaluate
    from jboost.evaluation.table import head_rows, notes, table_rows
    from jboost.tuning.marks import warning as tuned_warning

    opened: list[SampleSet] = []
    with Bars() as bars:
        result = evaluate(
            reference,
            samples,
            features=features,
            protocol=protocol,
            metrics=split_names(metrics),
            batch_size=batch_size,
            device=device,
            resamples=bootstrap,
            seed=seed,
            save=save_features,
            trust_code=trust_code,
            reading=reading,
            on_open=opened.append,
            features_range=features_range,
            on_progress=bars.show,
        )
    for images in opened:
        read_options.print_labels(images)
    if (tuned := tuned_warning(reference, next((s for s in opened if s.path == reference), None))) is not None:
        result.warnings.insert(0, tuned)
    print_results(head_rows(result), table_rows(result), notes(result), stderr=json_file == STDOUT)
    write_json(result.to_dict(), json_file)
