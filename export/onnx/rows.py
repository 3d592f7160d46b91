"""Write an ONNX model's operators so that an image's numbers do not depend on its row in the batch.

Some kernels of ONNX Runtime (1.31, CPU) round a number by where it lies in memory:

* ``ReduceSum`` and ``ReduceMean`` over the last axes add up to three numbers before the first aligned vector of four and up to
  three behind the last one. So rows whose length is no multiple of four are added in different orders;
* ``Log``, ``Elu``, ``Sin``, ``Cos`` and ``Atan`` compute the last numbers of a tensor, or of a thread's part, by another formula
  than its vectors.

The forms that are written instead have no such edge. `tests/export/onnx/test_rows.py` holds this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass
from onnx_ir.tape import Tape

# A row whose length is a multiple of this begins at a vector and ends with one: ONNX Runtime's vectors have 4 numbers, those
# of builds for one machine up to 16.
_VECTOR = 16

_FLOATS = {ir.DataType.FLOAT: np.float32, ir.DataType.DOUBLE: np.float64}


def make_rows_independent(model: ir.Model) -> int:
    """Replace every operator that rounds by position, in place.

    Args:
        model: an ONNX model of opset 18 or later.

    Returns:
        The number of operators replaced.
    """
    if any(value.shape is None for node in model.graph if node.op_type in _RULES for value in node.inputs if value):
        ShapeInferencePass()(model)
    changed = 0
    for node in list(model.graph):
        rule = _RULES.get(node.op_type)
        x = node.inputs[0] if rule and node.domain == "" else None
        if rule is None or x is None or x.shape is None or x.dtype not in _FLOATS:
            continue
        tape = Tape()
        new = rule(tape, node, x)
        if new is not None:
            old = node.outputs[0]
            new.shape, new.type = old.shape, old.type
            for tensor in tape.initializers:
                _keep(model.graph, tensor)
            ir.convenience.replace_nodes_and_values(model.graph, node, [node], tape.nodes, [old], [new])
            changed += 1
    return changed


def _keep(graph: ir.Graph, value: ir.Value) -> None:
    """Add a constant to the graph, under a name that none has."""
    name, number = value.name, 0
    while value.name in graph.initializers:
        number += 1
        value.name = f"{name}_{number}"
    graph.register_initializer(value)


def _constant(tape: Tape, name: str, numbers: Any, dtype: Any) -> ir.Value:
    return tape.initializer(ir.tensor(np.asarray(numbers, dtype), name=name), name=name)


def _whole(tape: Tape, name: str, numbers: list[int]) -> ir.Value:
    return _constant(tape, name, numbers, np.int64)


def _sum(tape: Tape, node: ir.Node, x: ir.Value) -> ir.Value | None:
    """A sum or mean over the last axes as a product with ones, which adds each row's numbers in order."""
    axes = _axes(node, x)
    if axes is None:
        return None
    sizes = list(x.shape or ())
    kept = [i for i in range(len(sizes)) if i not in axes and sizes[i] != 1]
    if kept and max(kept) > min((i for i in axes if sizes[i] != 1), default=len(sizes)):
        return None  # other axes follow: whole rows are added to each other
    length = _count([sizes[i] for i in axes])
    # With an open batch, every image begins at a vector if an image's numbers fill whole ones.
    image = None if isinstance(sizes[0], int) else _count(sizes[1:])
    if length in (None, 1) or any(count is not None and count % _VECTOR == 0 for count in (length, image)):
        return None
    out = _open_shape(node.outputs[0])
    if out is None:
        return None
    dtype = _FLOATS[x.dtype]  # type: ignore[index]
    rows = tape.op("Reshape", [x, _whole(tape, "rows", [-1, length])])
    total = tape.op("MatMul", [rows, _constant(tape, "ones", np.ones((length, 1)), dtype)])
    if node.op_type == "ReduceMean":
        total = tape.op("Div", [total, _constant(tape, "count", length, dtype)])
    return tape.op("Reshape", [total, _whole(tape, "shape", out)])


def _count(sizes: list[Any]) -> int | None:
    """The product of sizes; None if one is open."""
    return math.prod(sizes) if all(isinstance(size, int) for size in sizes) else None


def _axes(node: ir.Node, x: ir.Value) -> set[int] | None:
    """The axes that a node reduces; None if they are not known."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    rank = len(x.shape or ())
    if given is None:
        return None
    tensor = ir.convenience.get_const_tensor(given)
    return None if tensor is None else {int(axis) % rank for axis in tensor.numpy().reshape(-1)}


def _open_shape(value: ir.Value) -> list[int] | None:
    """A shape for Reshape, with -1 for the one size that is open; None if more are."""
    if value.shape is None:
        return None
    sizes = [size if isinstance(size, int) else -1 for size in value.shape]
    return sizes if sizes.count(-1) <= 1 else None


def _log(tape: Tape, node: ir.Node, x: ir.Value) -> ir.Value:
    """The logarithm of a sum of one number, which ONNX Runtime computes number by number."""
    axis = _whole(tape, "last", [len(x.shape or ())])
    return tape.op("ReduceLogSum", [tape.op("Unsqueeze", [x, axis]), axis], {"keepdims": 0})


def _elu(tape: Tape, node: ir.Node, x: ir.Value) -> ir.Value:
    """x above zero, alpha * (exp(x) - 1) below."""
    dtype = _FLOATS[x.dtype]  # type: ignore[index]
    alpha = node.attributes.get_float("alpha", 1.0)
    zero = _constant(tape, "zero", 0.0, dtype)
    below = tape.op("Sub", [tape.op("Exp", [tape.op("Min", [x, zero])]), _constant(tape, "one", 1.0, dtype)])
    scaled = tape.op("Mul", [below, _constant(tape, "alpha", alpha, dtype)])
    return tape.op("Where", [tape.op("Greater", [x, zero]), x, scaled])


def _in_whole_vectors(tape: Tape, node: ir.Node, x: ir.Value) -> ir.Value | None:
    """The operator on rows that are filled up to whole vectors."""
    length, out = _count(list(x.shape or ())[1:]), _open_shape(x)
    if out is None or length is None or length % _VECTOR == 0:
        return None
    rows = tape.op("Reshape", [x, _whole(tape, "rows", [-1, length])])
    rows = tape.op("Pad", [rows, _whole(tape, "fill", [0, 0, 0, -length % _VECTOR])])
    limits = [_whole(tape, name, [n]) for name, n in (("start", 0), ("end", length), ("axis", 1))]
    return tape.op("Reshape", [tape.op("Slice", [tape.op(node.op_type, [rows]), *limits]), _whole(tape, "shape", out)])


_RULES: dict[str, Callable[[Tape, ir.Node, ir.Value], ir.Value | None]] = {
    "ReduceSum": _sum,
    "ReduceMean": _sum,
    "Log": _log,
    "Elu": _elu,
    "Sin": _in_whole_vectors,
    "Cos": _in_whole_vectors,
    "Atan": _in_whole_vectors,
}
