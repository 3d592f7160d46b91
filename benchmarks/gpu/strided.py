"""The fastest form of a strided convolution's input gradient, by layer of a ResNet-50: transposed, phase by phase, merged.

    python benchmarks/gpu/strided.py [--device cuda] [--batch 256] [--dtype fp16]

Each layer is compiled alone, forward and gradient, as it would be in a package; a run is one CUDA graph. What differs between the
columns is the form alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from jboost.engine.backends.compiled.captured import capture
from jboost.engine.backends.torch_device import TORCH_DTYPES, set_tf32
from jboost.export.compiled.aoti import inductor_configs
from jboost.export.graph import lower_precision, optimize, trace_trunk
from jboost.export.graph.optimize import RECIPES

_FORMS = ("transposed", "phases", "merged")
#: Kernel, channels in and out, pixels of the input along an axis: the strided layers at 64x64.
_LAYERS = ((7, 3, 64, 64), (3, 128, 128, 16), (3, 256, 256, 8), (3, 512, 512, 4), (1, 256, 512, 16), (1, 512, 1024, 8))


def layer(form: str, shape: tuple[int, ...], batch: int, dtype: str, device: torch.device) -> Callable[[], object]:
    """A layer's forward pass and gradient on `device`, compiled; returns what runs it once."""
    kernel, inputs, outputs, size = shape
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, 2, kernel // 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(outputs, 10)
    )  # fmt: skip
    trunk = trace_trunk(model.requires_grad_(False), torch.rand(batch, inputs, size, size))
    optimize(trunk, recipe=replace(RECIPES["inductor-gpu"], strided=form))
    module = lower_precision(trunk, TORCH_DTYPES[dtype], 1.0).to(device)
    run = torch.compile(module, options=inductor_configs(device.type))
    x, v = torch.rand(batch, inputs, size, size, device=device), torch.randn(batch, 10, device=device)

    def once() -> object:
        with torch.no_grad():
            return run(x, v)

    once()
    return capture(once, device) if device.type == "cuda" else once


def seconds(run: Callable[[], object], device: torch.device, times: int) -> float:
    """A run's time, by the mean of `times` in a row."""

    def queue(count: int) -> None:
        for _ in range(count):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    queue(1)
    start = time.perf_counter()
    queue(times)
    return (time.perf_counter() - start) / times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp16")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    device = torch.device(args.device)
    set_tf32(False)
    print(f"microseconds, batch {args.batch}, {args.dtype}, torch {torch.__version__}; medians of {args.rounds} rounds")
    print(f"{'kernel, channels, pixels':28s}" + "".join(f"{form:>12s}" for form in _FORMS))
    for shape in _LAYERS:
        torch.compiler.reset()
        runs = [layer(form, shape, args.batch, args.dtype, device) for form in _FORMS]
        rounds = [
            [seconds(run, device, 50 if device.type == "cuda" else 3) for run in runs] for _ in range(args.rounds)
        ]
        kernel, inputs, outputs, size = shape
        name = f"{kernel}x{kernel}, {inputs} to {outputs}, {size}x{size}"
        print(
            f"{name:28s}" + "".join(f"{statistics.median(t) * 1e6:12.1f}" for t in zip(*rounds, strict=True)),
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
