"""Measure the machine's peak arithmetic speed in the same run, to compare engines with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import conv2d

from jboost.engine.backends.torch_device import TORCH_DTYPES
from jboost.engine.system.devices import device_kind

from .timing import best_of

#: Side of the matrices and batch of the convolution, by device kind. A GPU needs more work to be busy.
_SIZES = {"cpu": (2048, 32), "cuda": (8192, 1024)}
_CHANNELS, _SIDE, _KERNEL = 128, 32, 3
_AT_MOST, _SECONDS = 10, 1.0


@dataclass(frozen=True)
class Peak:
    """Peak speeds in 10^9 floating-point operations per second, best of several calls.

    Attributes:
        matmul_gflops: product of two square matrices (side 2048, on CUDA 8192).
        conv_gflops: 3x3 convolution from 128 to 128 channels at 32x32, channels last (batch 32, on CUDA 1024).
    """

    matmul_gflops: float
    conv_gflops: float

    def or_better(self, other: Peak) -> Peak:
        """Return the higher of both figures: disturbances only ever lower a measurement."""
        return Peak(max(self.matmul_gflops, other.matmul_gflops), max(self.conv_gflops, other.conv_gflops))


def measure_peaks(device: str, dtypes: Sequence[str], wait: Callable[[], object]) -> dict[str, Peak]:
    """Measure the peaks of each dtype on `device`; a dtype without operators there is left out.

    Args:
        device: torch device string.
        dtypes: "fp32", "fp16", "bf16".
        wait: blocks until the device is done.
    """
    side, batch = _SIZES[device_kind(device)]
    peaks: dict[str, Peak] = {}
    for name in dtypes:
        dtype = TORCH_DTYPES[name]
        try:
            peaks[name] = Peak(_matmul(side, device, dtype, wait) / 1e9, _convolution(batch, device, dtype, wait) / 1e9)
        except RuntimeError:  # torch raises this if an operator has no kernel for the dtype
            continue
    return peaks


@torch.no_grad()
def _matmul(side: int, device: str, dtype: torch.dtype, wait: Callable[[], object]) -> float:
    a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * side**3 / best_of(lambda: torch.mm(a, b, out=out), at_most=_AT_MOST, seconds=_SECONDS, wait=wait)


@torch.no_grad()
def _convolution(batch: int, device: str, dtype: torch.dtype, wait: Callable[[], object]) -> float:
    last = torch.channels_last
    x = torch.rand(batch, _CHANNELS, _SIDE, _SIDE, device=device).to(dtype).contiguous(memory_format=last)
    weight = torch.rand(_CHANNELS, _CHANNELS, _KERNEL, _KERNEL, device=device).to(dtype).contiguous(memory_format=last)
    flops = 2 * x.numel() * _CHANNELS * _KERNEL**2
    return flops / best_of(lambda: conv2d(x, weight, padding=1), at_most=_AT_MOST, seconds=_SECONDS, wait=wait)
