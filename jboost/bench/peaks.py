"""What the machine reaches at best: the yardstick for an engine's arithmetic, measured in the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import conv2d

from jboost.engine.backends.torch_device import TORCH_DTYPES
from jboost.engine.system.devices import device_kind

from .timing import best_of

#: By kind of device: the matrices' side, and the convolution's batch. A GPU needs more work to be busy.
_SIZES = {"cpu": (2048, 32), "cuda": (8192, 1024)}
_CHANNELS, _SIDE, _KERNEL = 128, 32, 3
_AT_MOST, _SECONDS = 10, 1.0


@dataclass(frozen=True)
class Peak:
    """10^9 floating-point operations a second, best of several.

    Attributes:
        matmul_gflops: of a product of two square matrices (2048, on CUDA 8192).
        conv_gflops: of a 3x3 convolution of 128 to 128 channels at 32x32, channels last (batch 32, on CUDA 1024).
    """

    matmul_gflops: float
    conv_gflops: float

    def or_better(self, other: Peak) -> Peak:
        """The higher of both figures: a disturbed measurement only ever reads low."""
        return Peak(max(self.matmul_gflops, other.matmul_gflops), max(self.conv_gflops, other.conv_gflops))


def measure_peaks(device: str, dtypes: Sequence[str], wait: Callable[[], object]) -> dict[str, Peak]:
    """The peaks of each dtype on `device`; a dtype that its operators do not take is left out.

    Args:
        device: torch device string.
        dtypes: "fp32", "fp16", "bf16".
        wait: returns when the device is done.
    """
    side, batch = _SIZES[device_kind(device)]
    peaks: dict[str, Peak] = {}
    for name in dtypes:
        dtype = TORCH_DTYPES[name]
        try:
            peaks[name] = Peak(_matmul(side, device, dtype, wait) / 1e9, _convolution(batch, device, dtype, wait) / 1e9)
        except RuntimeError:  # what torch raises for an operator without a kernel for this dtype
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
