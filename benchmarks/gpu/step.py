"""Where the time of one captured step goes: its kernels by kind, beside what this card's memory and arithmetic units can do.

    python benchmarks/gpu/step.py BUNDLE... [--dtype fp16] [--kernels 40]
    ncu --clock-control none --profile-from-start off --csv --metrics dram__bytes_read.sum,dram__bytes_write.sum \\
        python benchmarks/gpu/step.py BUNDLE --once          # the memory traffic of every kernel of a step, by the counters

The ceilings are measured in the same run: a copy within the device's memory (bytes read and written), a product of two float16
matrices and a 3x3 convolution.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import time
from collections import Counter

import numpy as np
import torch

from jboost.bench.baselines import Autograd
from jboost.bench.flops import image_step_flops
from jboost.bench.peaks import measure_peaks
from jboost.engine.backends.compiled.captured import CapturedFlight
from jboost.engine.backends.compiled.runner import CompiledRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.backends.torch_device import find_device
from jboost.engine.backends.trial import endless_flight
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError

_STEPS = 10  # in a turn, and in a profile
_KINDS = (
    ("copies", re.compile(r"^Mem(cpy|set)")),
    ("Triton's products", re.compile(r"^triton_tem")),
    ("Triton's other kernels", re.compile(r"^triton_")),
    ("cuDNN and cuBLAS", re.compile(r"cudnn|xmma|cutlass|gemm|nvjet|convolve|splitK|cublas", re.IGNORECASE)),
)


def kind_of(kernel: str) -> str:
    """The kind of a kernel, by its name."""
    return next((kind for kind, pattern in _KINDS if pattern.search(kernel)), "others")


def kernels_of(flight: CapturedFlight, device: torch.device) -> dict[str, tuple[float, float]]:
    """Name -> (launches, microseconds) in a step, as the profiler sees them in replays."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(_STEPS):
            flight.step()
        torch.cuda.synchronize(device)
    launches: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    for event in profile.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            launches[event.name] += 1
            taken[event.name] += event.device_time_total
    return {name: (launches[name] / _STEPS, taken[name] / _STEPS) for name, _ in taken.most_common()}


def step_seconds(flight: CapturedFlight, device: torch.device, rounds: int) -> float:
    """The median over `rounds` turns of a step's time, steps being queued one after the other."""
    turns = []
    for _ in range(rounds):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        for _ in range(_STEPS):
            flight.step()
        torch.cuda.synchronize(device)
        turns.append((time.perf_counter() - start) / _STEPS)
    return statistics.median(turns)


def copied_bytes_a_second(device: torch.device) -> float:
    """Bytes read and written by a copy within the device's memory, best of several."""
    source = torch.randint(0, 255, (1 << 31,), dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(6):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize(device)
        best = max(best, 2 * source.numel() / (time.perf_counter() - start))
    return best


def open_flight(path: str, dtype: str, device: torch.device) -> tuple[CompiledRunner, CapturedFlight, RunRequest]:
    """A bundle's packages with a batch of images that never finish."""
    bundle = Bundle(path)
    config = bundle.config
    size = config.resolutions[0]
    request = RunRequest("joint", config.l0, size, str(device), dtype)
    runner = CompiledRunner(bundle, request)
    rng, count = np.random.default_rng(0), runner.batch_size or 1
    images = rng.integers(0, 256, (count, size, size, config.in_channels), np.uint8)
    flight = endless_flight(runner, images, rng.integers(0, config.num_classes, count))
    assert isinstance(flight, CapturedFlight), "the plain rows of a CPU have no graphs"
    return runner, flight, request


def report(path: str, dtype: str, listed: int, rounds: int, device: torch.device) -> None:
    """Print a bundle's figures."""
    runner, flight, request = open_flight(path, dtype, device)
    bundle, count, size = Bundle(path), runner.batch_size or 1, request.resolution
    with runner:
        step = step_seconds(flight, device, rounds)
        kernels = kernels_of(flight, device)
    plain = Autograd(bundle, objective="joint", l0=request.l0, device=str(device))
    x = torch.rand(2, bundle.config.in_channels, size, size, device=device)
    flops = image_step_flops(lambda x: plain.loss(x, torch.zeros(2, dtype=torch.int64, device=device)), x)
    busy, launches = (sum(column) for column in ([k[1] for k in kernels.values()], [k[0] for k in kernels.values()]))
    print(f"{path}: {size} px, batch {count}, {dtype}, torch {torch.__version__}, {torch.cuda.get_device_name(device)}")
    print(
        f"  a step {step * 1e6:.1f} us, {step / count * 1e6:.3f} us an image; kernels {busy:.1f} us, {launches:.0f} launches"
    )
    print(f"  arithmetic {flops / 1e9:.3f} GFLOP an image: {flops * count / step / 1e12:.0f} TFLOP/s in the whole step")
    kinds: dict[str, list[float]] = {}
    for name, (times, us) in kernels.items():
        row = kinds.setdefault(kind_of(name), [0.0, 0.0])
        row[0] += times
        row[1] += us
    for kind, (times, us) in sorted(kinds.items(), key=lambda item: -item[1][1]):
        print(f"  {us:9.1f} us {us / busy:6.1%} {times:6.0f} launches  {kind}")
    for name, (times, us) in list(kernels.items())[:listed]:
        print(f"    {us:9.2f} us {times:5.1f}  {name[:150]}")
    sys.stdout.flush()


def once(path: str, dtype: str, device: torch.device) -> None:
    """One step, kernel by kernel, for a profiler that is switched on from here."""
    _, flight, _ = open_flight(path, dtype, device)
    flight.advance()
    torch.cuda.synchronize(device)
    torch.cuda.profiler.start()
    flight.advance()
    torch.cuda.synchronize(device)
    torch.cuda.profiler.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="+", help="with compiled packages of objective joint for this GPU")
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--kernels", type=int, default=40, help="how many kernels to list, the slowest first")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cudnn-benchmark", action="store_true", help="let cuDNN choose its kernels by trying them")
    parser.add_argument("--once", action="store_true", help="a single step, for ncu")
    args = parser.parse_args()
    try:
        device = torch.device(find_device("cuda"))
    except BadInputError as e:
        parser.error(str(e))
    torch.backends.cudnn.benchmark = args.cudnn_benchmark
    if args.once:
        once(args.bundle[0], args.dtype, device)
        return 0
    peaks = measure_peaks(str(device), (args.dtype,), lambda: torch.cuda.synchronize(device))[args.dtype]
    print(
        f"ceilings: memory {copied_bytes_a_second(device) / 1e12:.2f} TB/s, {args.dtype} product "
        f"{peaks.matmul_gflops / 1e3:.0f} TFLOP/s, convolution {peaks.conv_gflops / 1e3:.0f} TFLOP/s"
    )
    for path in args.bundle:
        report(path, args.dtype, args.kernels, args.rounds, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
