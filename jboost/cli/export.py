"""``jboost export``: from a checkpoint to a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Debug, console, split_numbers
from .tables import print_columns

if TYPE_CHECKING:
    from jboost.export.bundle import Exported

_MODEL, _CHECK = "Model", "Verification"


def export(
    ckpt: Annotated[
        Path,
        typer.Option(
            "--ckpt",
            help="Checkpoint: the paper's, torchvision's, Madry-lab's, RobustBench's, safetensors, or our trainer's.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder.")] = Path("bundle"),
    arch: Annotated[
        str | None,
        typer.Option(
            help="Architecture, e.g. resnet50 or package.module:factory.  [default: read from the weights]",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    num_classes: Annotated[
        int | None, typer.Option(help="Classes.  [default: read from the weights]", rich_help_panel=_MODEL)
    ] = None,
    normalize: Annotated[
        str | None,
        typer.Option(
            help="Normalisation inside the model: imagenet, cifar10, none or m1,m2,m3/s1,s2,s3.  [default: the checkpoint's]",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(help="Image sizes in pixels, e.g. 64,128.  [default: the checkpoint's]", rich_help_panel=_MODEL),
    ] = None,
    real: Annotated[
        Path | None,
        typer.Option(help="Labelled real images, to compute l0 (eq. 13) from.", rich_help_panel=_MODEL),
    ] = None,
    atol: Annotated[
        float, typer.Option(help="Largest error of a logit, relative to the largest.", rich_help_panel=_CHECK)
    ] = 1e-4,
    rtol: Annotated[
        float, typer.Option(help="Largest relative L2 error of an image's gradient.", rich_help_panel=_CHECK)
    ] = 1e-3,
    debug: Debug = False,
) -> None:
    """Write a bundle: weights, the forward program, and a manifest with hashes and verification figures.

    Example: jboost export --ckpt joint.pt -o bundle --real real.npz
    """
    from jboost.export.bundle import export_bundle

    notes = console(stderr=True)
    with notes.status("") as status:
        made = export_bundle(
            ckpt,
            output,
            arch=arch,
            num_classes=num_classes,
            normalization=normalize,
            resolutions=split_numbers(resolution, "--resolution"),
            real=real,
            atol=atol,
            rtol=rtol,
            on_stage=status.update,
        )
    for note in made.notes:
        notes.print(note, style="dim")
    _show(made)


def _show(made: Exported) -> None:
    from jboost.cli.inspect import artefact_rows, bundle_rows

    print_columns([("bundle", str(made.bundle.path)), *bundle_rows(made.bundle)])
    rows = zip(artefact_rows(made.bundle), made.seconds.values(), strict=True)
    print_columns([(file, size, f"{seconds:.1f} s", error) for (file, size, error), seconds in rows])
