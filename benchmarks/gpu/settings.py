"""One gradient compiled with several settings of Inductor, or at several batch sizes: which gives the fastest step?

    python benchmarks/gpu/settings.py resnet50.safetensors default tma:triton.enable_persistent_tma_matmul=True half:batch=128

Each variant is NAME[:KEY=VALUE,...]; a key is one of Inductor's settings, or `batch`. The variants are compiled at the
same time, each in a process of its own. Kernels are timed against each other in one process at a time, and so is the
step at the end, so that no variant disturbs another's figures. A variant's report: a step's time, its kernels' time and
number, the gaps between them, and whether a new process loads the package.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import fcntl
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from step import kernels_of, step_seconds

from jboost.engine.backends.compiled.packages import Packages
from jboost.engine.backends.compiled.runner import CompiledRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.backends.trial import endless_flight
from jboost.engine.errors import FailureError
from jboost.export.compiled import aoti
from jboost.export.compiled.packages import Compiler
from jboost.export.compiled.steps import step_package
from jboost.export.graph import attach_objective
from jboost.export.graph.program import export_program
from jboost.trainer.architectures import build_network
from jboost.trainer.checkpoint import read_safetensors
from jboost.trainer.joint import JointModel

DEVICE, DTYPE, L0, UPDATE = "cuda:0", "fp16", 3.0, "pgd-l2"


@contextlib.contextmanager
def alone(lock: Path) -> Iterator[None]:
    """No other variant uses the GPU for measurements meanwhile."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tune_in_turn(lock: Path) -> None:
    """Let Inductor time its kernels while no other variant does."""
    from torch._inductor.runtime.benchmarking import benchmarker

    timed, busy = type(benchmarker).benchmark_gpu, [False]

    def benchmark_gpu(*args: Any, **options: Any) -> Any:
        if busy[0]:  # it calls itself by another name
            return timed(*args, **options)
        busy[0] = True
        try:
            with alone(lock):
                return timed(*args, **options)
        finally:
            busy[0] = False

    type(benchmarker).benchmark_gpu = benchmark_gpu  # type: ignore[method-assign]


def compile_variant(checkpoint: Path, path: Path, batch: int, settings: dict[str, Any]) -> tuple[Packages, int]:
    """(the gradient with `settings` and the step with jboost's own, the side of an image)."""
    state, info = read_safetensors(checkpoint)
    assert info is not None, f"{checkpoint} is not one of benchmarks/gpu/networks.py"
    model = JointModel(build_network(info.arch, info.num_classes), info.mean, info.std)
    model.network.load_state_dict({name.removeprefix("network."): value for name, value in state.items()})
    model.eval().requires_grad_(False)
    size = info.resolution or 64
    compiler, usual, check = (
        Compiler(model, (3, size, size), batch, L0, DEVICE),
        aoti.inductor_configs,
        aoti.check_in_new_process,
    )

    def report(package: Path, device: str) -> None:
        try:
            check(package, device)
        except FailureError as e:
            print(f"  new process  {e}", flush=True)

    aoti.check_in_new_process = report
    aoti.inductor_configs = lambda device: usual(device) | settings
    program = export_program(attach_objective(compiler.lowered(DTYPE).trunk, "joint", L0))
    aoti.compile_package(program, path, DEVICE)
    aoti.inductor_configs = usual
    step, _ = step_package(UPDATE, batch, (3, size, size), DEVICE)
    return Packages(path, path, lambda _: step, batch), size


def gaps_of(flight: Any, device: torch.device) -> float:
    """Microseconds in a step during which no kernel runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        flight.step()
        torch.cuda.synchronize(device)
    ranges = sorted(
        (event.time_range.start, event.time_range.end)
        for event in profile.events() or ()
        if event.device_type == torch.autograd.DeviceType.CUDA
    )
    return sum(max(0.0, start - end) for (_, end), (start, _) in itertools.pairwise(ranges))


def variant(checkpoint: Path, name: str, settings: dict[str, Any], folder: Path) -> None:
    """Compile and measure one variant; its figures go to `folder`."""
    lock, start, batch = folder / "lock", time.perf_counter(), settings.pop("batch")
    tune_in_turn(lock)
    packages, size = compile_variant(checkpoint, folder / f"{name}.pt2", batch, settings)
    compiled, device = time.perf_counter() - start, torch.device(DEVICE)
    with alone(lock):
        runner = CompiledRunner(None, RunRequest("joint", L0, size, DEVICE, DTYPE), packages)  # type: ignore[arg-type]
        rng = np.random.default_rng(0)
        flight = endless_flight(
            runner, rng.integers(0, 256, (batch, size, size, 3), np.uint8), rng.integers(0, 10, batch)
        )
        step, kernels, gaps = step_seconds(flight, device, 15), kernels_of(flight, device), gaps_of(flight, device)  # type: ignore[arg-type]
    (folder / f"{name}.json").write_text(
        json.dumps({"step": step * 1e6, "batch": batch, "kernels": kernels, "gaps": gaps})
    )
    busy, launches = sum(us for _, us in kernels.values()), sum(times for times, _ in kernels.values())
    print(f"{name}: {settings or 'as jboost sets it'}, batch {batch}; compiled within {compiled:.0f} s")
    print(f"  a step       {step * 1e6:9.1f} us, {step / batch * 1e6:.3f} us an image")
    print(f"  its kernels  {busy:9.1f} us, {launches:.0f} launches, {gaps:.1f} us between them", flush=True)


def parse(text: str, batch: int) -> tuple[str, dict[str, Any]]:
    """NAME[:KEY=VALUE,...] as a name and settings."""
    name, _, rest = text.partition(":")
    pairs = (item.split("=", 1) for item in rest.split(",") if item)
    return name, {"batch": batch} | {key: ast.literal_eval(value) for key, value in pairs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="of benchmarks/gpu/networks.py")
    parser.add_argument("variants", nargs="+", metavar="NAME[:KEY=VALUE,...]")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--out", type=Path, help="keep each variant's figures, kernel by kernel, in this folder")
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)  # the folder of a run that started this process
    args = parser.parse_args()
    if args.only is not None:
        variant(args.checkpoint, *parse(args.variants[0], args.batch), args.only)
        return 0
    with TemporaryDirectory() as temporary:
        folder = args.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, str(args.checkpoint), "--batch", str(args.batch), "--only", str(folder)]
        running = [
            subprocess.Popen(
                [*command, text], stdout=subprocess.PIPE, stderr=(folder / f"{number}.log").open("w"), text=True
            )
            for number, text in enumerate(args.variants)
        ]
        for number, process in enumerate(running):
            print(process.communicate()[0], end="", flush=True)
            if process.returncode:
                print(f"{args.variants[number]} failed, exit code {process.returncode}:")
                print("\n".join((folder / f"{number}.log").read_text().splitlines()[-8:]), flush=True)
        for package in folder.glob("*.pt2"):
            package.unlink()
    return int(any(process.returncode for process in running))


if __name__ == "__main__":
    sys.exit(main())
