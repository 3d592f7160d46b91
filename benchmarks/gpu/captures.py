"""One CUDA graph a step, as the compile engine has it, or one for all steps of a short preset? Both, alternating, and the ratio.

    python benchmarks/gpu/captures.py BUNDLE... [--dtype fp16] [--steps 15]

A graph of a whole run saves launches and the gaps between graphs; it must be captured anew for each number of steps, and nobody can
look at the images before its end. So it has to be faster by more than that is worth.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from step import open_flight

from jboost.engine.backends.compiled.captured import CapturedFlight, capture
from jboost.engine.backends.torch_device import find_device
from jboost.engine.errors import BadInputError


def both_ways(flight: CapturedFlight, steps: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """What queues `steps` steps of a flight: as they are, and as one graph."""

    def one_by_one() -> None:
        for _ in range(steps):
            flight.step()

    def plain() -> None:
        for _ in range(steps):
            flight.advance()

    return {"one by one": one_by_one, "at once": capture(plain, device)}


def seconds(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """(until everything is queued, until it is done)."""
    start = time.perf_counter()
    run()
    queued = time.perf_counter() - start
    torch.cuda.synchronize(device)
    return queued, time.perf_counter() - start


def measure(path: str, dtype: str, steps: int, rounds: int, device: torch.device) -> None:
    """Print a bundle's line for each way."""
    runner, flight, request = open_flight(path, dtype, device)
    with runner:
        ways = both_ways(flight, steps, device)
        for run in ways.values():
            seconds(run, device)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, run in ways.items():
                taken[name].append(seconds(run, device))
    print(f"{path}: {request.resolution} px, batch {runner.batch_size}, {dtype}, {steps} steps")
    print(f"medians of {rounds} alternating rounds")
    middle = {name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in taken.items()}
    for name, (queued, done) in middle.items():
        print(f"  {name:10s} {done * 1e3:9.3f} ms, queued within {queued * 1e3:.3f} ms")
    print(f"  one by one / at once: {middle['one by one'][1] / middle['at once'][1]:.3f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="+", help="with compiled packages of objective joint for this GPU")
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=25)
    args = parser.parse_args()
    try:
        device = torch.device(find_device("cuda"))
    except BadInputError as e:
        parser.error(str(e))
    for path in args.bundle:
        measure(path, args.dtype, args.steps, args.rounds, device)
    return 0


if __name__ == "__main__":
    sys.exit(main())
