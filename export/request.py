"""The export request: which gradient graphs to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jboost.engine.errors import BadInputError
from jboost.engine.system.dtypes import check_dtype


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
