"""``jboost export``: turn a checkpoint into a verified bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, read_options
from .early import check_early
from .options import Debug, split_names, split_numbers
from .paths import check_paths
from .progress import StageBar
from .tables import print_columns
from .terminal import print_line

if TYPE_CHECKING:
    from jboost.export.bundle import Exported

_MODEL, _GRAPHS, _CHECK, _HUB = "Model", "Graphs", "Verification", "Hub"


def export(
    ckpt: Annotated[
        Path | None,
        typer.Option(
            "--ckpt",
            help="Checkpoint from the paper, torchvision, timm, Madry-lab, RobustBench, TRADES or `jboost train`, safetensors, "
            "or a folder with model.safetensors.",
            show_default="the weights that --arch brings",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Bundle folder to write.")] = Path("bundle"),
    arch: Annotated[str | None, options.arch(_MODEL)] = None,
    num_classes: Annotated[int | None, options.num_classes(_MODEL)] = None,
    in_channels: Annotated[
        int | None,
        typer.Option(
            help="Number of image channels.",
            show_default="read from the weights and the network",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    normalize: Annotated[
        str | None,
        typer.Option(
            help="Normalisation inside the model: imagenet, cifar10, none or m1,m2,m3/s1,s2,s3.",
            show_default="the checkpoint's or its package's; else it must be given",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(
            help="Image sizes in pixels, e.g. 64,128.", show_default="the checkpoint's", rich_help_panel=_MODEL
        ),
    ] = None,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="Gradient graphs to write: onnx, compile or trt, several with commas, or none.",
            rich_help_panel=_GRAPHS,
        ),
    ] = "onnx",
    objective: Annotated[str | None, options.objectives(_GRAPHS)] = None,
    update: Annotated[
        str | None,
        typer.Option(
            help="Further updates to compile steps for, several with commas: of an installed package, or FILE.py:NAME.",
            show_default="none",
            rich_help_panel=_GRAPHS,
        ),
    ] = None,
    trust_code: Annotated[bool, options.trust_files(_GRAPHS)] = False,
    dtype: Annotated[str, options.dtypes(_GRAPHS)] = "fp32",
    batch_size: Annotated[
        int | None,
        typer.Option(
            "-b",
            "--batch-size",
            help="Batch size of compiled packages and TensorRT plans; ONNX graphs take any.",
            show_default="32 on a CPU, 256 on a GPU",
            rich_help_panel=_GRAPHS,
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="Device to compile for: auto, cpu, cuda or cuda:N.", rich_help_panel=_GRAPHS),
    ] = "auto",
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            help="GPUs to build TensorRT plans for, e.g. sm_86,sm_120; needs TensorRT-RTX but no GPU.",
            show_default="this machine's GPU",
            rich_help_panel=_GRAPHS,
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option(help="ONNX opset.", show_default="20", rich_help_panel=_GRAPHS)] = None,
    real: Annotated[
        Path | None,
        typer.Option(help="Labelled real images to compute l0 (eq. 13) from.", rich_help_panel=_MODEL),
    ] = None,
    images_key: Annotated[str | None, read_options.images_key(read_options.PANEL)] = None,
    labels_key: Annotated[str | None, read_options.labels_key(read_options.PANEL)] = None,
    resize: Annotated[int | None, read_options.resize(read_options.PANEL)] = None,
    background: Annotated[str | None, read_options.background(read_options.PANEL)] = None,
    class_folders: Annotated[str | None, read_options.class_folders(read_options.PANEL)] = None,
    atol: Annotated[float | None, options.atol(_CHECK)] = None,
    rtol: Annotated[float | None, options.rtol(_CHECK)] = None,
    push: Annotated[
        str | None,
        typer.Option(
            help="Upload the bundle to this repository of the Hugging Face Hub, user/repo.", rich_help_panel=_HUB
        ),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            help="Licence in the model card, e.g. apache-2.0.",
            show_default="left for you to fill in",
            rich_help_panel=_HUB,
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.", rich_help_panel=_HUB)
    ] = False,
    debug: Debug = False,
) -> None:
    """Turn a checkpoint into a bundle: weights, verified graphs and a manifest.

    The graphs are the forward program and the gradient graphs. The manifest holds hashes and verification figures.

    Example: jboost export --ckpt joint.pt -o bundle --real real.npz
    """
    check_paths(inputs={"--ckpt": ckpt, "--real": real}, folders={"-o": output})
    reading = read_options.read_options(
        images_key=images_key,
        labels_key=labels_key,
        resize=resize,
        background=background,
        class_folders=class_folders,
    )
    objectives = split_names(objective)
    # What is checked at once, and once more where it is used: Python's callers have no other check.
    stated: dict[str, Any] = {
        "arch": arch,
        "formats": () if formats == "none" else tuple(formats.split(",")),
        "dtypes": tuple(dtype.split(",")),
        "batch_size": batch_size,
        "gpus": tuple(name for names in gpu or () for name in names.split(",")),
        "resolutions": split_numbers(resolution, "--resolution"),
        "device": device,
        "opset": opset,
        "atol": atol,
        "rtol": rtol,
    }
    _check(ckpt, output, stated, objectives, real)
    if push is not None:
        from jboost.hub import check_push

        check_push(push)
    elif license is not None or private:
        raise typer.BadParameter("--license and --private describe a repository; name it with --push user/repo")
    from jboost.export.bundle import export_bundle

    with StageBar(lines=debug) as bar:
        made = export_bundle(
            ckpt,
            output,
            num_classes=num_classes,
            in_channels=in_channels,
            normalization=normalize,
            objectives=objectives,
            updates=split_names(update) or (),
            trust_code=trust_code,
            real=real,
            reading=reading,
            **stated,
            on_stage=bar.say,
            on_progress=bar.move,
        )
    notes = bar.console
    for note in made.notes:
        notes.print(note, style="dim")
    _show(made)
    if push is not None:
        from jboost.hub import push as upload

        with notes.status(f"uploading to {push}"):
            address = upload(made.bundle, push, license=license, private=private)
        print_line(f"uploaded to {address}; use it with: --bundle hf://{push}")


def _check(
    ckpt: Path | None, output: Path, stated: dict[str, Any], objectives: tuple[str, ...] | None, real: Path | None
) -> None:
    """Refuse what can be refused without torch, which takes seconds to import."""
    from jboost.engine.method.plugins import find_objective
    from jboost.export.request import check_export

    check_export(ckpt, output, **stated)
    for name in objectives or ():
        if ":" not in name:  # a file's code runs once, when the export has begun
            find_objective(name)
    check_early(samples=[real])


def _show(made: Exported) -> None:
    from .inspect import artefact_rows, bundle_rows

    print_columns([("bundle", str(made.bundle.path)), *bundle_rows(made.bundle)])
    rows = [(file, size, made.seconds[name], error) for name, file, size, error in artefact_rows(made.bundle)]
    print_columns([(file, size, f"{seconds:.1f} s" if seconds else "", error) for file, size, seconds, error in rows])
