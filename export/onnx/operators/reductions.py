"""Rules of sums, means, maxima and places of maxima over axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from .builder import Builder, NoRuleError, rank, rule

aten = torch.ops.aten


def _reduce(b: Builder, kind: str, x: ir.Value, dims: Sequence[int] | int | None, keepdim: bool) -> ir.Value:
    given = [dims] if isinstance(dims, int) else list(dims or range(rank(x)))
    if not rank(x):
        raise NoRuleError("a reduction of one number")
    axes = b.whole(*(dim % rank(x) for dim in given))
    return b.op(kind, [x, axes], {"keepdims": int(keepdim)})


@rule(aten.sum.dim_IntList, aten.mean.dim)
def _sum(
    b: Builder, node: fx.Node, x: Any, dims: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> ir.Value:
    kind = "ReduceSum" if node.target is aten.sum.dim_IntList else "ReduceMean"
    return _reduce(b, kind, b.tensor(x, node.meta["val"].dtype), dims, keepdim)


@rule(aten.sum.default, aten.mean.default)
def _sum_of_all(b: Builder, node: fx.Node, x: Any, *, dtype: torch.dtype | None = None) -> ir.Value:
    kind = "ReduceSum" if node.target is aten.sum.default else "ReduceMean"
    return _reduce(b, kind, b.tensor(x, node.meta["val"].dtype), None, False)


@rule(aten.amax.default, aten.amin.default)
def _extreme(b: Builder, node: fx.Node, x: ir.Value, dims: Any = (), keepdim: bool = False) -> ir.Value:
    if x.dtype == ir.DataType.BOOL:
        raise NoRuleError("a maximum of truth values")
    return _reduce(b, "ReduceMax" if node.target is aten.amax.default else "ReduceMin", x, dims, keepdim)


@rule(aten.any.dim, aten.any.dims, aten.all.dim, aten.all.dims)
def _any(b: Builder, node: fx.Node, x: Any, dims: Any = None, keepdim: bool = False) -> ir.Value:
    some = node.target in (aten.any.dim, aten.any.dims)
    numbers = b.tensor(b.tensor(x, torch.bool), torch.int32)
    found = _reduce(b, "ReduceMax" if some else "ReduceMin", numbers, dims, keepdim)
    found.type, found.shape = ir.TensorType(ir.DataType.INT32), ir.Shape([None] * node.meta["val"].dim())
    return b.tensor(found, torch.bool)


@rule(aten.argmax.default, aten.argmin.default)
def _place(b: Builder, node: fx.Node, x: ir.Value, dim: int | None = None, keepdim: bool = False) -> ir.Value:
    if dim is None:
        raise NoRuleError("the place in the whole tensor")
    kind = "ArgMax" if node.target is aten.argmax.default else "ArgMin"
    return b.op(kind, [x], {"axis": dim % rank(x), "keepdims": int(keepdim)})


@rule(aten.cumsum.default)
def _cumsum(b: Builder, node: fx.Node, x: Any, dim: int, *, dtype: torch.dtype | None = None) -> ir.Value:
    value = b.tensor(x, node.meta["val"].dtype)
    return b.op("CumSum", [value, b.constant(dim % rank(value), torch.int64)])


@rule(aten.linalg_vector_norm.default)
def _norm(
    b: Builder,
    node: fx.Node,
    x: Any,
    order: float = 2,
    dims: Any = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> ir.Value:
    if order != 2:
        raise NoRuleError("a norm that is not Euclidean")
    value = b.tensor(x, node.meta["val"].dtype)
    squares = b.op("Mul", [value, value])
    squares.type, squares.shape = value.type, value.shape
    total = _reduce(b, "ReduceSum", squares, dims, keepdim)
    b.describe(total, node.meta["val"])
    return b.op("Sqrt", [total])
