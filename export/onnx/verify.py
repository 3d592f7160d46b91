"""Compare an ONNX graph in ONNX Runtime with autograd."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from jboost.export.verification.gradient import TOLERANCES, Figures, References, Run, Tolerance, judge, measure


def onnx_run(path: Path) -> tuple[Run, int | None]:
    """An ONNX artefact in ONNX Runtime on the CPU: (run, its fixed batch size or None).

    Raises:
        BadInputError: ONNX Runtime's CPU provider cannot load the graph (for example, it has no bfloat16 convolutions).
    """
    from jboost.engine.backends.onnx.session import open_session

    session = open_session(path, f"{path.name} on the CPU")
    batch = session.get_inputs()[0].shape[0]

    def run(x: NDArray[np.float32], y: NDArray[np.int64]) -> Sequence[NDArray[np.generic]]:
        outputs: Sequence[NDArray[np.generic]] = session.run(None, {"x": x, "y": y})
        return outputs

    return run, batch if isinstance(batch, int) else None


def verify_onnx(
    path: Path,
    model: nn.Module,
    objective: str,
    shape: tuple[int, int, int],
    *,
    l0: float | None = None,
    batch_sizes: Sequence[int] = (4, 2),
    dtype: str = "fp32",
    tolerance: Tolerance | None = None,
    references: References | None = None,
) -> Figures:
    """Reload an ONNX artefact and compare it with autograd.

    Args:
        path, model, objective, shape, l0: the artefact and the arguments of its export.
        batch_sizes: images per call; sizes above a fixed batch become the fixed batch.
        dtype: fp32, fp16 or bf16; sets the default tolerance.
        tolerance: replaces the default.
        references: what is known of `model` from other graphs; by default nothing is.

    Raises:
        BadInputError: the file cannot be loaded.
        FailureError: a figure is above its tolerance; the message names it.
    """
    run, fixed = onnx_run(path)
    used = sorted({min(b, fixed) if fixed else b for b in batch_sizes}, reverse=True)
    figures = measure(run, model, objective, shape, l0=l0, batch_sizes=used, fixed_batch=fixed, references=references)
    judge(figures, tolerance or TOLERANCES[dtype], path.name)
    return figures
