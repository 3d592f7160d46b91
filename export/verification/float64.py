"""A network in float64, the reference that exported graphs are compared with."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


def in_float64(model: nn.Module) -> nn.Module:
    """Return a copy of the network in float64, in evaluation mode.

    ``double()`` converts parameters and buffers. Tensors that a network keeps in other attributes, such as a cache in a dict,
    are converted here: their float32 values are part of the function.
    """
    exact = copy.deepcopy(model).double().eval()
    for module in exact.modules():
        for name, value in list(vars(module).items()):
            if name not in ("_parameters", "_buffers", "_modules"):
                vars(module)[name] = _doubled(value)
    return exact


def _doubled(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype is torch.float32 else value
    if type(value) in (list, tuple) and any(isinstance(v, Tensor) for v in value):
        return type(value)(_doubled(v) for v in value)
    if type(value) is dict and any(isinstance(v, Tensor) for v in value.values()):
        return {key: _doubled(v) for key, v in value.items()}
    return value
