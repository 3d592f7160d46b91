"""Batch normalisation over the batch of all processes, so that many processes take the same step as one.

torch's own `SyncBatchNorm` runs on accelerators only (torch 2.13); this one is for CPUs. All processes hold the same
number of images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import all_reduce, get_world_size


class _Sum(torch.autograd.Function):
    """The sum over all processes. The loss of every process depends on it, so the gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        total = v.clone()
        all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        all_reduce(total)
        return total


def sum_over_processes(v: Tensor) -> Tensor:
    """The sum of a tensor over all processes, with a gradient; every process gets it."""
    total: Tensor = _Sum.apply(v)  # type: ignore[no-untyped-call]
    return total


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with training statistics over the images of all processes: [B, C, H, W] -> the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the global batch in training mode, by the running statistics in eval mode."""
        if not self.training:
            return super().forward(x)
        processes = get_world_size()
        # First the mean, then the variance around it: E[x^2] - E[x]^2 would cancel if the mean is large.
        mean = sum_over_processes(x.float().mean((0, 2, 3))) / processes
        centred = x.float() - mean[:, None, None]
        var = sum_over_processes(centred.square().mean((0, 2, 3))) / processes
        self._track(mean.detach(), var.detach(), processes * x.numel() // x.shape[1])
        out = centred * (var + self.eps).rsqrt()[:, None, None]
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, count: int) -> None:
        """Update the running statistics; the running variance is unbiased, as in torch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(var * count / max(1, count - 1), share)


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> None:
    """Make every batch normalisation inside `model` (not `model` itself) use the batch of all processes, in place.

    Parameters and buffers stay the same objects under the same names.
    """
    if device.type != "cpu":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, _synced(child))


def _synced(norm: nn.BatchNorm2d) -> SyncedBatchNorm2d:
    synced = SyncedBatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    synced.weight, synced.bias = norm.weight, norm.bias
    synced.running_mean, synced.running_var = norm.running_mean, norm.running_var
    synced.num_batches_tracked = norm.num_batches_tracked
    synced.training = norm.training
    return synced
