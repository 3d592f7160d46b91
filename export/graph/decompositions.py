"""Rules that rewrite backward operators, and forward ones that runtimes lack, as plain forward operators.

torch's core ATen table covers most operators. This module adds:

* the input gradient of convolutions;
* pooling in forms that TensorRT reads;
* BatchNorm as one scale and one shift, so that passes can fold it;
* ReLU's gradient;
* LayerNorm and GroupNorm as primitive operators: TensorRT's parser refuses the three-output ONNX LayerNormalization
  that torch would export.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions, get_decompositions

from jboost.engine.errors import BadInputError

from . import pooling as pool

aten = torch.ops.aten

#: How max-pooling and its gradient are written:
#: ``"shifted"``: slices and comparisons, which every runtime reads;
#: ``"scatter"``: torch's indices, faster in Inductor on a CPU;
#: ``"gather"``: the same indices, but no two threads write the same number, for Inductor on a GPU.
Pooling = Literal["shifted", "scatter", "gather"]

Rule = Callable[..., Any]

#: Rules for every target. Add rules with `register`.
RULES: dict[Any, Rule] = {}

#: Rules for the few operators between logits and loss.
HEAD: dict[Any, Rule] = {}


def register(*operators: Any, table: dict[Any, Rule] = RULES) -> Callable[[Rule], Rule]:
    """Decorator that makes a function the rule for `operators` (overloads such as ``torch.ops.aten.relu.default``).

    The rule takes the operator's arguments and returns the operator's result, computed with other torch operators.
    """

    def add(rule: Rule) -> Rule:
        for operator in operators:
            table[operator] = rule
        return rule

    return add


def decomposition_table(pooling: Pooling = "shifted") -> dict[Any, Rule]:
    """Return the table for `aot_export_joint_simple`: torch's core ATen rules, overridden by this module's."""
    table: dict[Any, Rule] = dict(core_aten_decompositions())
    table.update(get_decompositions([aten._softmax, aten._log_softmax]))
    table.update(RULES)
    table.update(pool.RULES[pooling])
    return table


@register(aten.convolution_backward.default)
def convolution_input_gradient(
    grad: Tensor,
    input: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, None, None]:
    """Input gradient of a convolution: a transposed convolution with the same weights. Transposed ones: the reverse."""
    if output_mask[1] or output_mask[2]:
        raise BadInputError(
            "a convolution's weights depend on the input; only the gradient with respect to images is exported"
        )
    if not output_mask[0]:
        return None, None, None
    none = [0] * len(stride)
    if transposed:
        return aten.convolution(grad, weight, None, stride, padding, dilation, False, none, groups), None, None
    # A strided convolution maps several input sizes to one output size; output_padding selects the right one.
    extra = [
        input.shape[2 + i]
        - ((grad.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + 1)
        for i in range(len(stride))
    ]
    return aten.convolution(grad, weight, None, stride, padding, dilation, True, extra, groups), None, None


@register(
    aten.native_batch_norm.default,
    aten.cudnn_batch_norm.default,
    aten._native_batch_norm_legit.default,
)
def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """BatchNorm with fixed statistics: x * scale + shift; after constant folding, both are constants per channel."""
    if training or mean is None or var is None:
        raise BadInputError(
            "a BatchNorm uses the batch's own statistics (training mode, or track_running_stats=False), so an image's gradient "
            "would depend on its neighbours; give it running statistics"
        )
    scale = _batch_norm_scale(weight, var, eps)
    shift = -mean * scale if bias is None else bias - mean * scale
    per_channel = [-1] + [1] * (x.dim() - 2)
    empty = x.new_empty((0,))
    return x * scale.view(per_channel) + shift.view(per_channel), empty, empty


@register(aten._native_batch_norm_legit_no_training.default)
def batch_norm_no_training(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """BatchNorm with fixed statistics, under torch.export's name."""
    result: tuple[Tensor, Tensor, Tensor] = batch_norm(x, weight, bias, mean, var, False, momentum, eps)
    return result


def _batch_norm_scale(weight: Tensor | None, var: Tensor, eps: float) -> Tensor:
    inverse = (var + eps).rsqrt()
    return inverse if weight is None else weight * inverse


@register(aten.native_batch_norm_backward.default)
def batch_norm_input_gradient(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    save_mean: Tensor | None,
    save_invstd: Tensor | None,
    train: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """Input gradient of BatchNorm with fixed statistics: grad * scale."""
    if train or var is None:
        raise BadInputError("a BatchNorm uses the batch's own statistics; give it running statistics")
    return grad * _batch_norm_scale(weight, var, eps).view([-1] + [1] * (x.dim() - 2)), None, None


@register(aten.cudnn_batch_norm_backward.default)
def cudnn_batch_norm_input_gradient(
    x: Tensor,
    grad: Tensor,
    weight: Tensor,
    mean: Tensor | None,
    var: Tensor | None,
    save_mean: Tensor | None,
    save_var: Tensor | None,
    eps: float,
    reserve: Tensor,
) -> tuple[Tensor, None, None]:
    """Input gradient of BatchNorm, for the operator in CUDA traces."""
    result: tuple[Tensor, None, None] = batch_norm_input_gradient(
        grad, x, weight, mean, var, None, None, False, eps, (True, False, False)
    )
    return result


@register(aten.threshold_backward.default)
def threshold_gradient(grad: Tensor, saved: Tensor, threshold: float) -> Tensor:
    """ReLU's gradient. `saved` is the ReLU's output, which the forward pass keeps anyway, so nothing is recomputed."""
    return torch.where(saved <= threshold, 0.0, grad)


@register(aten.scatter_add.default, table=HEAD)
def scatter_one(into: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """Gradient of selecting one entry per row, as a comparison: TensorRT reads no ScatterElements with a reduction."""
    if into.dim() != 2 or dim not in (1, -1) or index.shape[1] != 1:
        raise BadInputError(
            "an objective reads logits in a way that the exporter does not support (it supports one entry per row)"
        )
    columns = torch.arange(into.shape[1], device=into.device)
    return into + torch.where(columns == index, source, 0.0)


@register(aten.var_mean.correction)
def var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """Variance and mean in two passes, as means: torch's own rules use compiler operators without an ONNX form."""
    dims = list(range(x.dim())) if not dim else list(dim)
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    count = 1
    for d in dims:
        count *= x.shape[d]
    lost = 1.0 if correction is None else float(correction)
    var = (centred * centred).sum(dims, keepdim=keepdim) / (count - lost)
    return var, mean if keepdim else x.mean(dims)


@register(aten.var.correction)
def variance(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Variance, by `var_mean`."""
    var: Tensor = var_mean(x, dim, correction=correction, keepdim=keepdim)[0]
    return var


@register(aten.std.correction)
def deviation(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Standard deviation, by `var_mean`."""
    var: Tensor = var_mean(x, dim, correction=correction, keepdim=keepdim)[0]
    return var.sqrt()


@register(aten.native_layer_norm.default)
def layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm as primitive operators; also returns the mean and inverse deviation that its gradient reads."""
    dims = list(range(x.dim() - len(shape), x.dim()))
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    inverse = ((centred * centred).mean(dims, keepdim=True) + eps).rsqrt()
    y = centred * inverse
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y, mean, inverse


@register(aten.native_group_norm.default)
def group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, N: int, C: int, HxW: int, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """GroupNorm as primitive operators; mean and inverse deviation are [N, groups]."""
    blocks = x.reshape(N, groups, -1)
    mean = blocks.mean(2, keepdim=True)
    centred = blocks - mean
    inverse = ((centred * centred).mean(2, keepdim=True) + eps).rsqrt()
    y = (centred * inverse).reshape(x.shape)
    per_channel = [-1] + [1] * (x.dim() - 2)
    if weight is not None:
        y = y * weight.reshape(per_channel)
    if bias is not None:
        y = y + bias.reshape(per_channel)
    return y, mean.squeeze(2), inverse.squeeze(2)


@register(aten.empty_permuted.default)
def no_uninitialised(
    size: Sequence[int], order: Sequence[int], *, dtype: torch.dtype | None = None, **layout: Any
) -> Tensor:
    """Zeros instead of an uninitialised tensor, which only torch has; torch's own rules pass one to full_like."""
    return torch.full(size, 0.0, dtype=dtype)
