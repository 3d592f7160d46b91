"""Rules of convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch
from torch import fx

from .builder import Builder, rank, rule, static_size, value_of

aten = torch.ops.aten


@rule(aten.convolution.default)
def _convolution(
    b: Builder,
    node: fx.Node,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> ir.Value:
    axes = rank(weight) - 2

    def each(numbers: Sequence[int]) -> list[int]:
        return list(numbers) * axes if len(numbers) == 1 else list(numbers)

    pads = each(padding) * 2
    if not transposed:
        x, pads = _absorbed(x, pads)
    attributes = {
        "kernel_shape": [static_size(weight, 2 + i) for i in range(axes)],
        "strides": each(stride),
        "pads": pads,
        "dilations": each(dilation),
        "group": groups,
    }
    inputs = [x, weight] if bias is None else [x, weight, bias]
    if not transposed:
        return b.op("Conv", inputs, attributes)
    return b.op("ConvTranspose", inputs, attributes | {"output_padding": each(output_padding)})


def _absorbed(x: ir.Value, pads: list[int]) -> tuple[ir.Value, list[int]]:
    """Let a convolution pad its input itself, where a Pad of zeros stands before it."""
    pad = x.producer()
    if pad is None or pad.op_type != "Pad":
        return x, pads
    source, *given = pad.inputs
    constants = [None if value is None else ir.convenience.get_const_tensor(value) for value in given[:2]]
    if source is None or constants[0] is None or constants[1] is None:
        return x, pads
    numbers, zero = constants[0].numpy().tolist(), float(constants[1].numpy())
    count = len(numbers) // 2
    before, after = numbers[:count], numbers[count:]
    if zero != 0 or min(numbers) < 0 or any(before[:2]) or any(after[:2]):
        return x, pads
    return source, [a + c for a, c in zip(pads, [*before[2:], *after[2:]], strict=True)]


@rule(aten.mm.default, aten.bmm.default)
def _product(b: Builder, node: fx.Node, x: ir.Value, other: ir.Value) -> ir.Value:
    return b.op("MatMul", [x, other])


@rule(aten.addmm.default)
def _gemm(
    b: Builder, node: fx.Node, bias: ir.Value, x: ir.Value, other: ir.Value, *, beta: float = 1, alpha: float = 1
) -> ir.Value:
    return b.op("Gemm", [x, other, bias], {"alpha": float(alpha), "beta": float(beta)})


@rule(aten.baddbmm.default)
def _batched_gemm(
    b: Builder, node: fx.Node, bias: ir.Value, x: ir.Value, other: ir.Value, *, beta: float = 1, alpha: float = 1
) -> ir.Value:
    like = node.meta["val"]
    product = b.op("MatMul", [x, other], like=like)
    if alpha != 1:
        product = b.op("Mul", [product, b.constant(float(alpha), like.dtype)], like=like)
    if beta != 1:
        bias = b.op("Mul", [bias, b.constant(float(beta), like.dtype)], like=value_of(node.args[0]))
    return b.op("Add", [product, bias])
