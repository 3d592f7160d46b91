"""The export request: which gradient graphs to write. Its checks need no torch, which takes seconds to import."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jboost.engine.bundle import is_bundle
from jboost.engine.errors import BadInputError
from jboost.engine.system.commands import make_folder
from jboost.engine.system.devices import DeviceName
from jboost.engine.system.dtypes import check_dtype
from jboost.engine.system.locks import check_no_writer
from jboost.trainer.architecture_names import OTHERS

FORMATS = ("onnx", "compile", "trt")


@dataclass(frozen=True)
class ExportRequest:
    """The export request: which gradient graphs to write.

    Attributes:
        objectives, dtypes, resolutions: one gradient graph for each combination.
        opset: ONNX opset; None for the default.
        atol, rtol: see `jboost.export.verification.gradient.tolerance`; None for the dtype's own.
    """

    objectives: tuple[str, ...]
    dtypes: tuple[str, ...]
    resolutions: tuple[int, ...]
    opset: int | None = None
    atol: float | None = None
    rtol: float | None = None


def check_dtypes(dtypes: Sequence[str], formats: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the dtypes to write as ONNX, and a remark on each dtype left out.

    Raises:
        BadInputError: a dtype is unknown, or bf16 is the only dtype and the formats hold ``"onnx"`` but not
            ``"compile"``: ONNX Runtime's CPU provider cannot run bf16.
    """
    for dtype in dtypes:
        check_dtype(dtype)
    why = "ONNX Runtime has no bf16 convolutions on a CPU, so a bf16 graph could not be verified"
    kept = tuple(dtype for dtype in dict.fromkeys(dtypes) if dtype != "bf16")
    if "onnx" not in formats or "bf16" not in dtypes:
        return kept, ()
    if not kept and "compile" not in formats:
        raise BadInputError(f"{why}; export --dtype fp16 or fp32, or --format compile")
    return kept, (f"bf16: not written as ONNX, nor as a TensorRT plan ({why})",)


def check_export(
    checkpoint: Path | None,
    out: Path,
    *,
    arch: str | None,
    formats: Sequence[str],
    dtypes: Sequence[str],
    batch_size: int | None,
    gpus: Sequence[str],
    resolutions: Sequence[int] | None,
    device: str,
    opset: int | None,
    atol: float | None,
    rtol: float | None,
) -> None:
    """Refuse arguments of `jboost.export.bundle.export_bundle` that can be judged at once: names, numbers and files.

    Raises:
        BadInputError: one of them cannot be used.
    """
    check_no_writer(out)
    check_place(out)
    for name in formats:
        if name not in FORMATS:
            raise BadInputError(f"unknown format {name!r}; choose from {', '.join(FORMATS)}, or none alone")
    if gpus and "trt" not in formats:
        raise BadInputError("--gpu selects the GPUs that TensorRT plans are built for; pass --format trt with it")
    DeviceName.parse(device)
    check_dtypes(dtypes, formats)
    if batch_size is not None and batch_size < 1:
        raise BadInputError(f"batch size must be at least 1, got {batch_size}")
    if resolutions and min(resolutions) < 1:
        raise BadInputError(f"--resolution must be in pixels, above 0, got {sizes_text(resolutions)}")
    check_tolerances(atol, rtol)
    if opset is not None:
        from .opsets import check_opset  # onnx and ONNX Runtime, which only this needs here

        check_opset(opset)
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    elif arch is None:
        raise no_weights()


def check_tolerances(atol: float | None, rtol: float | None) -> None:
    """Refuse bounds that no error can be judged by.

    Raises:
        BadInputError: one of them is negative, infinite or not a number.
    """
    for option, bound in {"--atol": atol, "--rtol": rtol}.items():
        if bound is not None and not (math.isfinite(bound) and bound >= 0):
            raise BadInputError(
                f"{option} must be a finite number, 0 or above, got {bound:g}; leave it out for the dtype's own bound"
            )


def check_place(out: Path) -> None:
    """Refuse a place that no bundle can be written to.

    Raises:
        BadInputError: it is a file or another folder, or its parent does not exist.
    """
    if out.exists() and not out.is_dir():
        raise BadInputError(f"{out} is a file; name the bundle's folder with -o")
    if out.is_dir() and any(out.iterdir()) and not is_bundle(out):
        raise BadInputError(f"{out} exists and is not a bundle, so it is left alone; name another folder with -o")
    parent = out.resolve().parent
    if not parent.is_dir():
        raise BadInputError(f"{parent} does not exist; make it with: {make_folder(parent)}")


def check_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that is not there, cannot be read or is empty; a folder passes.

    Raises:
        BadInputError: it is.
    """
    if path.is_dir():
        return
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise BadInputError(f"{path} is empty; download or copy it again")
    except FileNotFoundError:
        raise BadInputError(f"no checkpoint file {path}; check the path given to --ckpt") from None
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def no_weights() -> BadInputError:
    """The error where neither a checkpoint nor an architecture with weights is named."""
    return BadInputError(
        "no weights: pass --ckpt FILE (only hf-hub:ORG/NAME, timm:NAME.TAG and instances of a network bring their own); "
        f"--arch takes {OTHERS}"
    )


def sizes_text(sizes: Sequence[int]) -> str:
    """``64x64, 128x128``."""
    return ", ".join(f"{s}x{s}" for s in sizes)
