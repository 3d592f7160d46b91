"""An operator that torch lacks: a ReLU's derivative, computed from its output."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("jboost::relu_mask", mutates_args=())
def relu_mask(y: Tensor) -> Tensor:
    """1 where y > 0, else 0, in y's dtype. `y` is a ReLU's output, so it has no negative entries.

    This is one operator, not a comparison and a cast, so that each target can write it in its fastest form.
    """
    return (y > 0).to(y.dtype)


@relu_mask.register_fake
def _(y: Tensor) -> Tensor:
    return torch.empty_like(y)
