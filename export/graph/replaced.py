"""Functions that tracing replaces by others with the same result, because torch's own leave operators without a forward form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten

#: Adaptive average pooling by its names: the functions that modules call, and the operators of an exported program -> spatial axes.
_ADAPTIVE = {
    F.adaptive_avg_pool1d: 1,
    torch.adaptive_avg_pool1d: 1,
    aten.adaptive_avg_pool1d.default: 1,
    F.adaptive_avg_pool2d: 2,
    torch._C._nn.adaptive_avg_pool2d: 2,
    aten.adaptive_avg_pool2d.default: 2,
    F.adaptive_avg_pool3d: 3,
    torch._C._nn.adaptive_avg_pool3d: 3,
    aten.adaptive_avg_pool3d.default: 3,
}


class GlobalPoolingAsMean(TorchFunctionMode):
    """Replace adaptive average pooling to one number per channel by a mean.

    torch computes it as a mean too, but then sets the strides of a channels-last map in place (``as_strided_``, torch 2.13).
    That leaves ``as_strided_scatter`` in the backward pass, which has no ONNX form. A network makes such maps when it permutes
    [B, H, W, C] to [B, C, H, W]: ConvNeXt with linear layers, Swin.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        axes = _ADAPTIVE.get(func)
        if axes is not None:
            x, size = _arguments(*args, **(kwargs or {}))
            if size in (1, (1,) * axes):
                return x.mean(tuple(range(-axes, 0)), keepdim=True)
        return func(*args, **(kwargs or {}))


def _arguments(input: Tensor, output_size: int | Sequence[int | None]) -> tuple[Tensor, int | tuple[int | None, ...]]:
    """Return the input and the size, from arguments under torch's names."""
    return input, output_size if isinstance(output_size, int) else tuple(output_size)
