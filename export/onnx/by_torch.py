"""Translate a graph to ONNX by torch's own exporter, which traces it again: slow, but it knows more operators."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir
import torch
from onnxscript import opset18 as op
from torch import fx

from jboost.engine.errors import BadInputError, first_line
from jboost.export.graph.program import export_program
from jboost.export.opsets import DEFAULT_OPSET

from .operators.elementwise import STEEP


def _relu_mask(y: Any) -> Any:
    if y.dtype == onnx_ir.DataType.FLOAT:
        return op.HardSigmoid(y, alpha=STEEP, beta=0.0)
    return op.Sign(y)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress lines and its remarks on torchvision and on converting to a newer opset."""
    loggers = [
        logging.getLogger(name)
        for name in ("torch.onnx._internal.exporter._registration", "onnxscript.version_converter")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def export_by_torch(module: fx.GraphModule, opset: int, outputs: Sequence[str]) -> onnx_ir.Model:
    """Build the ONNX model of a graph; arguments as for `translate`.

    Raises:
        BadInputError: an operator has no ONNX form.
        FailureError: torch.export refuses the graph.
    """
    program = export_program(module)
    try:
        with _quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                input_names=["x", "y"],
                output_names=list(outputs),
                custom_translation_table={torch.ops.jboost.relu_mask.default: _relu_mask},
                verbose=False,
            )
    except Exception as e:
        cause: BaseException = e
        while cause.__cause__ is not None:
            cause = cause.__cause__
        # torch writes an older opset and converts it; its conversion to the newest ones fails on some graphs.
        other = f"try --opset {DEFAULT_OPSET}, " if opset > DEFAULT_OPSET else ""
        raise BadInputError(
            f"the gradient graph has no ONNX form at opset {opset}: {first_line(cause)}; {other}replace the layer, or "
            "add a rule with jboost.export.graph.decompositions.register that writes its operator with other operators"
        ) from e
    assert exported is not None
    model: onnx_ir.Model = exported.model
    return model
