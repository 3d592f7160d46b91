"""The arithmetic of one image-step: the forward pass and the gradient with respect to the input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode


def image_step_flops(loss: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> float:
    """Floating-point operations an image of the eager forward pass and its input gradient.

    A multiplication and an addition count as two; convolutions, matrix products and attention count, elementwise work does not
    (torch's flop counter). Parameters must not require a gradient, or theirs would be counted too.

    Args:
        loss: the batch's summed loss, a scalar.
        x: float32 [B, C, H, W], the images.
    """
    x = x.detach().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        # A copy, because the counter's hooks cannot stand on a leaf inside autograd.grad (torch 2.13).
        torch.autograd.grad(loss(x.clone()), x)
    return float(counter.get_total_flops()) / x.shape[0]


def gflops(flops: float, milliseconds: float) -> float:
    """`flops` operations in `milliseconds`, as 10^9 operations a second."""
    return flops / milliseconds / 1e6
