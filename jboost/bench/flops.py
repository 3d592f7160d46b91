"""Count the floating-point operations of one image-step: the forward pass and the input gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode


def image_step_flops(loss: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    """Return floating-point operations per image of the eager forward pass and its input gradient.

    A multiplication and an addition count as two operations. Convolutions, matrix products and attention count;
    elementwise work does not (torch's flop counter). Parameters must not require gradients, or those would count too.

    Args:
        loss: maps images to the batch's summed loss, a scalar.
        x: float32 [B, C, H, W], the images.
    """
    x = x.detach().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        # A copy, because the counter's hooks do not work on a leaf inside autograd.grad (torch 2.13).
        torch.autograd.grad(loss(x.clone()), x)
    return float(counter.get_total_flops()) / x.shape[0]


def gflops(flops: float, milliseconds: float) -> float:
    """Convert `flops` operations in `milliseconds` to 10^9 operations per second."""
    return flops / milliseconds / 1e6
