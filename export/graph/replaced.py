"""Functions that tracing replaces by others with the same result, because torch's own leave operators without a forward form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten


class PlainFunctions(TorchFunctionMode):
    """Replace the functions of `REPLACED` while a network is traced."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replaced = REPLACED.get(func)
        if replaced is not None:
            result = replaced(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        return func(*args, **(kwargs or {}))


def _global_average(axes: int, input: Tensor, output_size: int | Sequence[int | None]) -> Any:
    """Global average pooling as a mean.

    torch computes it as a mean too, but then sets the strides of a channels-last map in place (``as_strided_``, torch 2.13).
    That leaves ``as_strided_scatter`` in the backward pass, which has no ONNX form. A network makes such maps when it permutes
    [B, H, W, C] to [B, C, H, W]: ConvNeXt with linear layers, Swin.
    """
    if output_size not in (1, [1] * axes, (1,) * axes):
        return NotImplemented
    return input.mean(tuple(range(-axes, 0)), keepdim=True)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """InstanceNorm of [B, C, ...] as primitive operators: torch writes it as a BatchNorm over [1, B * C, ...]."""
    per_channel = [-1] + [1] * (input.dim() - 2)
    if use_input_stats or running_mean is None or running_var is None:
        axes = tuple(range(2, input.dim()))
        centred = input - input.mean(axes, keepdim=True)
        y = centred * ((centred * centred).mean(axes, keepdim=True) + eps).rsqrt()
    else:
        y = (input - running_mean.view(per_channel)) * (running_var + eps).rsqrt().view(per_channel)
    if weight is not None:
        y = y * weight.view(per_channel)
    return y if bias is None else y + bias.view(per_channel)


def _instance_norm_operator(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """`_instance_norm` with the operator's order of arguments."""
    return _instance_norm(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


def _local_response_norm(input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Local response normalisation by a sum over shifted channels: torch pools over channels in 3D."""
    squares = F.pad(input * input, [0, 0] * (input.dim() - 2) + [size // 2, (size - 1) // 2])
    total = squares[:, : input.shape[1]]
    for shift in range(1, size):
        total = total + squares[:, shift : shift + input.shape[1]]
    return input / (k + alpha * total / size) ** beta


def _rrelu(
    input: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Any:
    """The randomised leaky ReLU in evaluation mode: its mean slope."""
    return NotImplemented if training else F.leaky_relu(input, (lower + upper) / 2)


#: Functions that modules call, and the operators of exported programs -> what stands for them. A replacement takes the same
#: arguments, and returns NotImplemented where torch's own function is to stay.
REPLACED: dict[Any, Callable[..., Any]] = {
    F.adaptive_avg_pool1d: partial(_global_average, 1),
    torch.adaptive_avg_pool1d: partial(_global_average, 1),
    aten.adaptive_avg_pool1d.default: partial(_global_average, 1),
    F.adaptive_avg_pool2d: partial(_global_average, 2),
    torch._C._nn.adaptive_avg_pool2d: partial(_global_average, 2),
    aten.adaptive_avg_pool2d.default: partial(_global_average, 2),
    F.adaptive_avg_pool3d: partial(_global_average, 3),
    torch._C._nn.adaptive_avg_pool3d: partial(_global_average, 3),
    aten.adaptive_avg_pool3d.default: partial(_global_average, 3),
    F.instance_norm: _instance_norm,
    torch.instance_norm: _instance_norm_operator,
    aten.instance_norm.default: _instance_norm_operator,
    F.local_response_norm: _local_response_norm,
    F.rrelu: _rrelu,
}
