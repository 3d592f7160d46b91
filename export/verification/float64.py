"""A network in float64, the reference that exported graphs are compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def in_float64(model: nn.Module) -> nn.Module:
    """Return a copy of the network that computes in float64, in evaluation mode.

    ``double()`` converts parameters and buffers. Tensors that a network keeps in other attributes, such as a cache in a dict,
    are converted here: their float32 values are part of the function. Casts to float32 in the network's own code, or in the graph
    of a traced program, become casts to float64 while it runs.
    """
    exact = copy.deepcopy(model).double().eval()
    for module in exact.modules():
        for name, value in list(vars(module).items()):
            if name not in ("_parameters", "_buffers", "_modules"):
                vars(module)[name] = _doubled(value)
    return _Throughout(exact)


class _Throughout(nn.Module):
    """A network in float64 whose casts to float32, and whose new tensors, are float64 too."""

    def __init__(self, network: Callable[..., Any]) -> None:
        super().__init__()
        self._network = network

    def forward(self, *args: Any) -> Any:
        with _Float64():
            return self._network(*args)


class _Float64(TorchFunctionMode):
    """float64 wherever a call of torch names float32, or makes a float32 tensor by default."""

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.float:
            func = Tensor.double
        return _doubled(func(*map(_named, args), **{key: _named(value) for key, value in (kwargs or {}).items()}))


def _named(value: Any) -> Any:
    if value is torch.float32:
        return torch.float64
    # Parts of a traced program, such as one under no_grad, run inside one call, where the mode is off.
    return _Throughout(value) if isinstance(value, torch.fx.GraphModule) else value


def _doubled(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype is torch.float32 else value
    if type(value) in (list, tuple) and any(isinstance(v, Tensor) for v in value):
        return type(value)(_doubled(v) for v in value)
    if type(value) is dict and any(isinstance(v, Tensor) for v in value.values()):
        return {key: _doubled(v) for key, v in value.items()}
    return value
