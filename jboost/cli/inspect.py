"""``jboost inspect``: describe a sample set, a bundle or a checkpoint."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options, read_options
from .json_output import print_json
from .options import AsJson, Debug
from .paths import check_paths
from .tables import print_columns

if TYPE_CHECKING:
    from jboost.engine.bundle import Bundle
    from jboost.engine.samples import ReadOptions


def inspect(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Sample set, bundle or checkpoint.", show_default=False)],
    arch: Annotated[str | None, options.arch()] = None,
    num_classes: Annotated[int | None, options.num_classes()] = None,
    images_key: Annotated[str | None, read_options.images_key(read_options.PANEL)] = None,
    labels_key: Annotated[str | None, read_options.labels_key(read_options.PANEL)] = None,
    resize: Annotated[int | None, read_options.resize(read_options.PANEL)] = None,
    background: Annotated[str | None, read_options.background(read_options.PANEL)] = None,
    class_folders: Annotated[str | None, read_options.class_folders(read_options.PANEL)] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Describe a sample set, a bundle or a checkpoint: counts, sizes, dtype, labels, architecture, hashes.

    Example: jboost inspect samples.npz
    """
    check_paths(inputs={"PATH": path})
    reading = read_options.read_options(
        images_key=images_key,
        labels_key=labels_key,
        resize=resize,
        background=background,
        class_folders=class_folders,
    )
    kind, facts = describe(path, reading, arch=arch, num_classes=num_classes)
    if as_json:
        print_json({"kind": kind, "path": str(path)} | facts)
        return
    print_columns([("path", str(path)), ("kind", kind), *((name, _text(value)) for name, value in facts.items())])


def describe(
    path: Path, reading: ReadOptions, *, arch: str | None = None, num_classes: int | None = None
) -> tuple[str, dict[str, Any]]:
    """Return the kind of `path` ("samples", "bundle" or "checkpoint") and the facts about it.

    Args:
        path: the file or folder.
        reading: how to read a sample set.
        arch, num_classes: see `load_checkpoint`.

    Raises:
        BadInputError: the file is none of these or damaged, or a bundle's files do not match their hashes.
    """
    from jboost.engine.bundle import Bundle, is_bundle
    from jboost.engine.errors import BadInputError

    if str(path).startswith("hf:"):
        from jboost.opening import open_bundle

        return "bundle", _describe_bundle(open_bundle(path))
    if not path.exists():
        raise BadInputError(f"{path} does not exist; give a sample set, a bundle or a checkpoint")
    if path.is_dir() and is_bundle(path):
        return "bundle", _describe_bundle(Bundle(path))
    weights = path.is_dir() and any((path / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
    if (path.is_dir() and not weights) or (path.is_file() and _looks_like_samples(path)):
        return "samples", _describe_samples(path, reading)
    return "checkpoint", _describe_checkpoint(path, arch, num_classes)


def _describe_bundle(bundle: Bundle) -> dict[str, Any]:
    bundle.check()
    facts = dict(bundle_rows(bundle)) | {"hashes": "all files match"}
    facts["code"] = "trusted" if bundle.trusted else f"not trusted; {bundle.how_to_trust()}"
    return facts | {file: ", ".join(filter(None, cells)) for _, file, *cells in artefact_rows(bundle)}


def _looks_like_samples(path: Path) -> bool:
    from jboost.engine.samples.files import TENSOR_SUFFIXES, is_sample_file

    if is_sample_file(path):
        return True
    if path.suffix.lower() in TENSOR_SUFFIXES:
        from jboost.engine.samples.tensors import holds_images

        return holds_images(path)
    # torch checkpoints are zip files too, but contain a data.pkl.
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(name.endswith("data.pkl") for name in archive.namelist())
    except (
        zipfile.BadZipFile,
        ValueError,
        NotImplementedError,
    ):  # no zip file, or a damaged one: torch says more about it
        return False


def _describe_samples(path: Path, reading: ReadOptions) -> dict[str, Any]:
    import numpy as np

    from jboost.engine.bundle import sha256_file
    from jboost.engine.samples import open_samples

    samples = open_samples(path, reading)
    n, h, w, c = samples.shape
    facts: dict[str, Any] = {
        "images": n,
        "height": h,
        "width": w,
        "channels": c,
        "dtype": "uint8",
        "layout": samples.kind,
    }
    if samples.labels is None:
        facts["labels"] = None
    else:
        values, counts = np.unique(samples.labels, return_counts=True)
        names = [str(v) for v in values] if samples.label_names is None else [samples.label_names[v] for v in values]
        facts |= {"classes": len(values), "labels": dict(zip(names, counts.tolist(), strict=True))}
    facts["labels from"] = samples.label_source
    facts["notes"] = list(samples.notes)
    if path.is_file():
        facts["sha256"] = sha256_file(path)
    return facts


def _describe_checkpoint(path: Path, arch: str | None, num_classes: int | None) -> dict[str, Any]:
    from jboost.export.checkpoints.load import load_checkpoint

    loaded = load_checkpoint(path, arch=arch, num_classes=num_classes, required=False)
    info = loaded.info
    return {
        "architecture": info.arch,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "classes": info.num_classes,
        "channels": info.in_channels,
        "resolution": info.resolution,
        "mean": list(info.mean) if loaded.normalized else None,
        "std": list(info.std) if loaded.normalized else None,
        "l0": info.l0,
        "class names": None if info.class_names is None else list(info.class_names),
        "notes": list(loaded.notes),
        "sha256": loaded.sha256,
    }


def bundle_rows(bundle: Bundle) -> list[tuple[str, str]]:
    """Return the facts about a bundle as rows (name, text)."""
    config = bundle.config
    rows = [
        ("architecture", config.architecture),
        ("classes", f"{config.num_classes:,}"),
        ("channels", str(config.in_channels)),
        ("resolutions", ", ".join(f"{r}x{r}" for r in config.resolutions)),
        ("mean, std", f"{_text(list(config.mean))}, {_text(list(config.std))}"),
        ("l0", "unknown (pass --real to export)" if config.l0 is None else f"{config.l0:.4f}"),
        ("source", f"{config.source['file']}, sha256 {config.source['sha256']}"),
        ("versions", ", ".join(f"{k} {v}" for k, v in config.versions.items())),
    ]
    for t in config.timings:
        rows.append(
            (
                f"{t.engine}, {t.dtype}, {t.resolution}x{t.resolution}",
                f"{t.ms:.3g} ms an image-step, batch {t.batch_size}",
            )
        )
    if config.timings:
        rows.append(("timed on", config.timings[0].machine))
    if config.class_names is not None:
        rows.insert(2, ("class names", _text(list(config.class_names))))
    return rows


# Errors recorded for an artefact, by key: the first one present is shown.
_FIGURES = {"grad_worst": "gradient error", "logits_worst": "logit error", "worst": "error of a step"}


def artefact_rows(bundle: Bundle) -> list[tuple[str, str, str, str]]:
    """Return a row for each of a bundle's files: name in the manifest, file, size, worst error and remarks."""
    rows = []
    # Several graphs may share a weights file: list it once.
    files = {a.file: (name, a) for name, a in reversed(bundle.config.artefacts.items())}
    for name, a in reversed(files.values()):
        said = [f"{what} {a.errors[key]:.1e}" for key, what in _FIGURES.items() if key in a.errors][:1]
        if a.errors.get("products_in_fp32"):
            said.append(f"{a.errors['products_in_fp32']} of {a.errors['products']} products in fp32")
        if a.unverified:
            said.append("not run yet")
        rows.append((name, a.file, f"{a.size / 1e6:.1f} MB", ", ".join(said)))
    return rows


def _text(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, dict):
        parts = [f"{k}: {v:,}" for k, v in value.items()]
        return ", ".join(parts[:20]) + (f", ... ({len(parts)} in all)" if len(parts) > 20 else "")
    if isinstance(value, list):
        parts = [f"{v:g}" if isinstance(v, float) else str(v) for v in value]
        return ", ".join(parts[:10]) + (f", ... ({len(parts)} in all)" if len(parts) > 10 else "")
    return f"{value:,}" if isinstance(value, int) else str(value)
