"""Read the arguments of aten.convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from .rewriter import Rewriter, arguments, sizes

aten = torch.ops.aten


@dataclass(frozen=True)
class Convolution:
    """One 2-D convolution node whose weights (and bias) are constants.

    Attributes:
        weight: [out, in/groups, kh, kw], or [in, out/groups, kh, kw] where `transposed`.
        bias: [out] or None.
    """

    node: fx.Node
    input: fx.Node
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    @property
    def outputs(self) -> int:
        """Number of output channels."""
        return self.weight.shape[1] * self.groups if self.transposed else self.weight.shape[0]

    @property
    def inputs(self) -> int:
        """Number of input channels."""
        return self.weight.shape[0] if self.transposed else self.weight.shape[1] * self.groups

    @property
    def is_half(self) -> bool:
        """Whether it computes in float16 or bfloat16."""
        return self.weight.dtype in (torch.float16, torch.bfloat16)

    @property
    def name(self) -> str:
        """Name for constants derived from the weights."""
        return str(self.node.args[1])

    def scaled(self, out_scale: Tensor | None = None, in_scale: Tensor | None = None) -> Tensor:
        """Multiply the weight by a factor per output or per input channel, computed in float64."""
        w, g = self.weight.double(), self.groups
        blocks = w.reshape(g, w.shape[0] // g, *w.shape[1:])  # [groups, first axis, second axis, kh, kw]
        first, second = (in_scale, out_scale) if self.transposed else (out_scale, in_scale)
        if first is not None:
            blocks = blocks * first.double().reshape(g, -1, 1, 1, 1)
        if second is not None:
            blocks = blocks * second.double().reshape(g, 1, -1, 1, 1)
        return blocks.reshape(w.shape).to(self.weight.dtype)


def read_convolution(r: Rewriter, node: Any) -> Convolution | None:
    """Return the convolution at `node`; None for another operator, one that is not 2-D, or weights that vary."""
    if not isinstance(node, fx.Node) or node.target is not aten.convolution.default:
        return None
    x, w, b, stride, padding, dilation, transposed, output_padding, groups = arguments(node)
    weight, bias = r.value(w), r.value(b)
    if weight is None or weight.dim() != 4 or (b is not None and bias is None):
        return None
    return Convolution(
        node, x, weight, bias, tuple(stride), tuple(padding), tuple(dilation), transposed, tuple(output_padding), groups
    )  # fmt: skip


def crop_and_add_bias(r: Rewriter, conv: Convolution, whole: fx.Node) -> fx.Node:
    """Crop `whole` at the bottom and on the right to the output size of `conv`, and add the bias of `conv`."""
    for axis in (2, 3):
        if sizes(whole)[axis] != sizes(conv.node)[axis]:
            whole = r.call(aten.slice.Tensor, whole, axis, 0, sizes(conv.node)[axis])
    if conv.bias is not None:
        bias = r.constant(conv.bias.reshape(1, -1, 1, 1), f"{conv.name}_bias")
        whole = r.call(aten.add.Tensor, whole, bias)
    return whole


def per_channel(r: Rewriter, value: Any, channels: int) -> Tensor | None:
    """Return a constant that is one number per channel of [B, C, H, W] as float64 [C]; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return torch.full((channels,), float(value), dtype=torch.float64)
    tensor = r.value(value)
    if tensor is None or not tensor.is_floating_point():
        return None
    if tensor.numel() == 1:
        return tensor.double().reshape(1).expand(channels)
    shape = (1,) * (4 - tensor.dim()) + tuple(tensor.shape)
    return tensor.double().reshape(-1) if shape == (1, channels, 1, 1) else None
