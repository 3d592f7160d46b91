"""Milliseconds an image-step of every engine in a bundle, against eager PyTorch float32, alternating in one process.

    python benchmarks/engines.py bundle --batch 32 --rounds 9

Prints the median of each and its ratio to eager float32. Timings of a shared machine are noisy: the ratio of medians of alternating
runs is what to quote.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.registry import ENGINES
from jboost.engine.runner import Runner


def open_all(bundle: Bundle, objective: str, resolution: int, batch: int) -> dict[str, Runner]:
    """Every engine and dtype that the bundle serves on the CPU."""
    runners = {}
    for name, engine in ENGINES.items():
        for dtype in ("fp32", "fp16", "bf16"):
            run = {
                "objective": objective,
                "l0": bundle.config.l0,
                "resolution": resolution,
                "device": "cpu",
                "dtype": dtype,
            }
            if not engine.probe().available or engine.why_unusable(bundle, batch_size=batch, **run) is not None:
                continue
            try:
                runners[f"{name} {dtype}"] = engine.open(bundle, **run)
            except BadInputError as e:
                print(f"{name} {dtype}: {e}")
    return runners


def step(runner: Runner, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    x_device, y_device = runner.put(x), runner.put(y)
    return lambda: runner.gradient(x_device, y_device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--objective", default=None, help="default: joint where the bundle knows l0, else bce")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="engines to time, e.g. 'eager fp32,onnx fp32'; default: all")
    args = parser.parse_args()
    bundle = Bundle(args.bundle)
    config = bundle.config
    objective = args.objective or ("joint" if config.l0 is not None else "bce")
    size = config.resolutions[0]
    runners = open_all(bundle, objective, size, args.batch)
    if args.only:
        runners = {name: runner for name, runner in runners.items() if name in args.only.split(",")}
    rng = np.random.default_rng(0)
    x = rng.random((args.batch, config.in_channels, size, size), dtype=np.float32)
    y = rng.integers(0, config.num_classes, args.batch)
    steps = {name: step(runner, x, y) for name, runner in runners.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for go in steps.values():
        go()  # warm-up
    for _ in range(args.rounds):
        for name, go in steps.items():
            start = time.perf_counter()
            go()
            seconds[name].append(time.perf_counter() - start)
    what = f"{config.architecture}, {size}x{size}, batch {args.batch}, {objective}"
    print(f"{what}, {torch.get_num_threads()} threads, {args.rounds} rounds")
    base = statistics.median(seconds["eager fp32"])
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print(f"{name:<14} {median / args.batch * 1e3:7.2f} ms an image-step   {base / median:5.2f}x eager fp32")


if __name__ == "__main__":
    main()
