"""Write a gradient graph as ONNX for ONNX Runtime and TensorRT, with external weights and reproducible bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir
import torch
from torch import fx

from jboost.engine.errors import BadInputError, FailureError, first_line
from jboost.export.graph.trace import OUTPUTS
from jboost.export.opsets import DEFAULT_OPSET, check_opset

from .operators import NoRuleError
from .rows import make_rows_independent
from .translate import translate

#: The first opset whose convolutions take bfloat16.
BFLOAT16_OPSET = 22


def to_onnx(
    module: fx.GraphModule,
    path: Path,
    *,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
    outputs: Sequence[str] = OUTPUTS,
) -> list[Path]:
    """Write a gradient graph to ``path`` and its weights to one file beside it (``path`` + ``.data``).

    Args:
        module: result of `attach_objective`, after `optimize`.
        path: the model file; an existing file is overwritten.
        opset: ONNX opset version, 18 or later; None for 20, or 22 for a bfloat16 graph.
        metadata: written to the model's ``metadata_props``: objective, l0, versions. It must not change from run to run
            (no dates, no paths): exporting twice must give the same bytes.
        outputs: names of the graph's outputs.

    Returns:
        The files written, the model first.

    Raises:
        BadInputError: the opset cannot be written or read here, or an operator has no ONNX form.
        FailureError: the written model fails onnx.checker.
    """
    bfloat16 = any(b.dtype is torch.bfloat16 for b in module.buffers())
    if opset is None:
        opset = BFLOAT16_OPSET if bfloat16 else DEFAULT_OPSET
    if bfloat16 and opset < BFLOAT16_OPSET:
        raise BadInputError(
            f"opset {opset} has no bfloat16 convolutions; choose {BFLOAT16_OPSET} or later, or --dtype fp16"
        )
    check_opset(opset)
    try:
        model = translate(module, opset, outputs)
    except NoRuleError:  # an operator of a rare layer or of a rule of the user's own: torch's exporter may know it
        from .by_torch import export_by_torch  # it takes a second to import

        model = export_by_torch(module, opset, outputs)
    make_rows_independent(model)
    _clean(model, dict(metadata or {}))
    data = path.with_name(path.name + ".data")
    data.unlink(missing_ok=True)  # the writer appends to an existing file
    onnx_ir.save(model, path, external_data=data.name)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as e:
        raise FailureError(f"{path.name} was written but is not a valid ONNX model: {first_line(e)}") from e
    return [path, data] if data.exists() else [path]


def _clean(model: Any, metadata: dict[str, str]) -> None:
    """Drop torch's notes on each node's origin (file names and lines, which differ by machine); add `metadata`."""
    model.doc_string = None
    model.graph.doc_string = None
    model.graph.name = "gradient"
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props.update({key: metadata[key] for key in sorted(metadata)})
    model.producer_name, model.producer_version = "jboost", ""
