"""Rules of operators that move numbers: reshapes, slices, joins, padding, look-ups."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from .builder import Builder, NoRuleError, axis_of, rank, rule, static_size, value_of

aten = torch.ops.aten

# ONNX's word for "to the end" of an axis; torch writes the largest int64 too.
_END = (1 << 63) - 1


@rule(aten.sym_size.int)
def _size(b: Builder, node: fx.Node, x: ir.Value, axis: int) -> ir.Value:
    axis = axis_of(axis, rank(x))
    return b.size(b.op("Shape", [x], {"start": axis, "end": axis + 1}))


@rule(aten.reshape.default, aten.view.default, aten._unsafe_view.default)
def _reshape(b: Builder, node: fx.Node, x: ir.Value, shape: Sequence[Any]) -> ir.Value:
    sizes = list(node.meta["val"].shape)
    if 0 in sizes:
        raise NoRuleError("a tensor without numbers")
    if sum(not isinstance(size, int) for size in sizes) <= 1:  # what follows from the others need not be read
        while (before := x.producer()) is not None and before.op_type == "Reshape" and before.inputs[0] is not None:
            x = before.inputs[0]
        return b.op("Reshape", [x, b.whole(*(size if isinstance(size, int) else -1 for size in sizes))])
    return b.op("Reshape", [x, b.sizes(shape)])


@rule(aten.expand.default)
def _expand(b: Builder, node: fx.Node, x: ir.Value, shape: Sequence[Any], *, implicit: bool = False) -> ir.Value:
    sizes = [1 if isinstance(size, int) and size == -1 else size for size in shape]  # 1 keeps a size in ONNX
    return b.op("Expand", [x, b.sizes(sizes)])


@rule(aten.permute.default)
def _permute(b: Builder, node: fx.Node, x: ir.Value, order: Sequence[int]) -> ir.Value:
    return b.op("Transpose", [x], {"perm": [axis_of(axis, rank(x)) for axis in order]})


@rule(aten.transpose.int)
def _transpose(b: Builder, node: fx.Node, x: ir.Value, first: int, second: int) -> ir.Value:
    order = list(range(rank(x)))
    order[first], order[second] = order[second], order[first]
    return b.op("Transpose", [x], {"perm": order})


@rule(aten.t.default)
def _t(b: Builder, node: fx.Node, x: ir.Value) -> ir.Value:
    return b.op("Transpose", [x], {"perm": [1, 0]}) if rank(x) == 2 else x


@rule(aten.unsqueeze.default)
def _unsqueeze(b: Builder, node: fx.Node, x: ir.Value, axis: int) -> ir.Value:
    return b.op("Unsqueeze", [x, b.whole(axis_of(axis, rank(x) + 1))])


@rule(aten.squeeze.dim, aten.squeeze.dims)
def _squeeze(b: Builder, node: fx.Node, x: ir.Value, axes: int | Sequence[int]) -> ir.Value:
    given = [axis_of(a, rank(x)) for a in ([axes] if isinstance(axes, int) else axes)]
    ones = sorted(axis for axis in given if static_size(x, axis) == 1)
    return b.op("Squeeze", [x, b.whole(*ones)]) if ones else x


@rule(aten.cat.default)
def _cat(b: Builder, node: fx.Node, parts: Sequence[ir.Value], axis: int = 0) -> ir.Value:
    like = node.meta["val"]
    if any(rank(part) != like.dim() for part in parts):
        raise NoRuleError("a join with an empty list")
    return b.op("Concat", [b.tensor(part, like.dtype) for part in parts], {"axis": axis_of(axis, like.dim())})


def _slice(b: Builder, x: ir.Value, axis: int, start: Any, end: Any, step: int = 1) -> ir.Value:
    return b.op("Slice", [x, b.as_size(start), b.as_size(end), b.whole(axis), b.whole(step)])


@rule(aten.slice.Tensor)
def _slice_of(
    b: Builder, node: fx.Node, x: ir.Value, axis: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> ir.Value:
    start, end = 0 if start is None else start, _END if end is None else end
    return _slice(b, x, axis_of(axis, rank(x)), start, end, step)


@rule(aten.select.int)
def _select(b: Builder, node: fx.Node, x: ir.Value, axis: int, index: Any) -> ir.Value:
    if not isinstance(index, int):
        raise NoRuleError("a place that is a size")
    return b.op("Gather", [x, b.constant(index, torch.int64)], {"axis": axis_of(axis, rank(x))})


@rule(aten.slice_scatter.default)
def _slice_scatter(
    b: Builder,
    node: fx.Node,
    x: ir.Value,
    part: ir.Value,
    axis: int = 0,
    start: Any = None,
    end: Any = None,
    step: int = 1,
) -> ir.Value:
    axis = axis_of(axis, rank(x))
    new = b.tensor(part, node.meta["val"].dtype)
    if start in (None, 0) and end in (None, _END) and step == 1:
        return new
    if not all(limit is None or isinstance(limit, int) for limit in (start, end)):
        raise NoRuleError("a scatter with open limits")
    length = static_size(x, axis)
    places = range(length)[slice(start, end, step)]
    if step != 1:
        sources = list(range(length))
        for count, place in enumerate(places):
            sources[place] = length + count
        both = b.op("Concat", [x, new], {"axis": axis})
        return b.op("Gather", [both, b.whole(*sources)], {"axis": axis})
    parts = [new]
    if places.start > 0:
        parts.insert(0, _slice(b, x, axis, 0, places.start))
    if places.stop < length:
        parts.append(_slice(b, x, axis, places.stop, length))
    return b.op("Concat", parts, {"axis": axis}) if len(parts) > 1 else new


@rule(aten.select_scatter.default)
def _select_scatter(b: Builder, node: fx.Node, x: ir.Value, part: ir.Value, axis: int, index: Any) -> ir.Value:
    axis = axis_of(axis, rank(x))
    if not isinstance(index, int):
        raise NoRuleError("a place that is a size")
    index %= static_size(x, axis)
    row = b.op("Unsqueeze", [b.tensor(part, node.meta["val"].dtype), b.whole(axis)])
    row.type = x.type
    return _slice_scatter(b, node, x, row, axis, index, index + 1)


@rule(aten.split_with_sizes.default)
def _split(b: Builder, node: fx.Node, x: ir.Value, lengths: Sequence[Any], axis: int = 0) -> Sequence[ir.Value]:
    attributes = {"axis": axis_of(axis, rank(x))}
    parts = b.ops("Split", [x, b.sizes(lengths)], attributes, count=len(lengths))
    for part, traced in zip(parts, node.meta["val"], strict=True):
        b.describe(part, traced)
    return parts


@rule(operator.getitem)
def _getitem(b: Builder, node: fx.Node, parts: Sequence[ir.Value], index: int) -> ir.Value:
    return parts[index]


@rule(aten.constant_pad_nd.default)
def _pad(b: Builder, node: fx.Node, x: ir.Value, pad: Sequence[Any], value: Any = 0) -> ir.Value:
    if not all(isinstance(size, int) for size in pad):
        raise NoRuleError("padding by a size")
    before, after = [0] * rank(x), [0] * rank(x)
    for i in range(len(pad) // 2):  # torch lists the last axis first
        before[-1 - i], after[-1 - i] = pad[2 * i], pad[2 * i + 1]
    return b.op("Pad", [x, b.whole(*before, *after), b.tensor(value, node.meta["val"].dtype)], {"mode": "constant"})


@rule(aten.full.default)
def _full(b: Builder, node: fx.Node, shape: Sequence[Any], value: Any, **how: Any) -> ir.Value:
    number = b.tensor(value, node.meta["val"].dtype)
    return b.op("Expand", [number, b.sizes(shape)]) if shape else number


@rule(aten.full_like.default)
def _full_like(b: Builder, node: fx.Node, x: ir.Value, value: Any, **how: Any) -> ir.Value:
    number = b.tensor(value, node.meta["val"].dtype)
    sizes = list(node.meta["val"].shape)
    known = all(isinstance(size, int) for size in sizes)
    return b.op("Expand", [number, b.whole(*sizes) if known else b.op("Shape", [x])])


@rule(aten.repeat.default)
def _repeat(b: Builder, node: fx.Node, x: ir.Value, times: Sequence[Any]) -> ir.Value:
    if rank(x) != len(times):
        raise NoRuleError("a repetition along new axes")
    return b.op("Tile", [x, b.sizes(times)])


@rule(aten.gather.default)
def _gather(b: Builder, node: fx.Node, x: ir.Value, axis: int, index: ir.Value, **how: Any) -> ir.Value:
    return b.op("GatherElements", [x, index], {"axis": axis_of(axis, rank(x))})


@rule(aten.index_select.default)
def _index_select(b: Builder, node: fx.Node, x: ir.Value, axis: int, index: ir.Value) -> ir.Value:
    return b.op("Gather", [x, index], {"axis": axis_of(axis, rank(x))})


@rule(aten.index.Tensor, aten._unsafe_index.Tensor)
def _index(b: Builder, node: fx.Node, x: ir.Value, indices: Sequence[ir.Value | None]) -> ir.Value:
    """Look-ups by one tensor, or by one a dimension whose broadcast is their outer product, as of rows and columns."""
    given = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if any(index.dtype not in (ir.DataType.INT64, ir.DataType.INT32) for _, index in given):
        raise NoRuleError("a look-up by truth values")
    if len(given) == 1:
        axis, index = given[0]
        return b.op("Gather", [x, index], {"axis": axis})
    axes = [axis for axis, _ in given]
    if axes != list(range(axes[0], axes[0] + len(axes))):
        raise NoRuleError("a look-up on axes that are apart")
    lengths = []
    together = max(rank(index) for _, index in given)
    for place, (_, index) in enumerate(given):
        sizes = [1] * (together - rank(index)) + [static_size(index, i) for i in range(rank(index))]
        if together != len(given) or any(size != 1 for i, size in enumerate(sizes) if i != place):
            raise NoRuleError("a look-up at places one by one")
        lengths.append(sizes[place])
    for (axis, index), length in zip(given, lengths, strict=True):
        x = b.op("Gather", [x, b.op("Reshape", [index, b.whole(length)])], {"axis": axis})
    return x


@rule(aten.pixel_shuffle.default)
def _pixel_shuffle(b: Builder, node: fx.Node, x: ir.Value, factor: int) -> ir.Value:
    if rank(x) != 4:
        raise NoRuleError("a pixel shuffle that is not of [B, C, H, W]")
    return b.op("DepthToSpace", [x], {"blocksize": factor, "mode": "CRD"})


@rule(aten.arange.start_step)
def _arange(b: Builder, node: fx.Node, start: Any, end: Any, step: Any = 1, **how: Any) -> ir.Value:
    if value_of(node).dtype is not torch.int64:
        raise NoRuleError("a range of fractions")
    limits = [b.op("Squeeze", [b.as_size(limit), b.whole(0)]) for limit in (start, end, step)]
    return b.op("Range", limits)
