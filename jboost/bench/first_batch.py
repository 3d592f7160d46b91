"""Measure seconds and memory until a contestant's first gradient, in a separate process.

    python -m jboost.bench.first_batch '{"contestant": {...}, "work": {...}, "started": 1700000000.0}'

prints one line of JSON, the fields of `FirstBatch`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from jboost.engine.errors import FailureError, one_line
from jboost.engine.system.devices import device_kind
from jboost.engine.system.memory import peak_memory

from .contestants import TORCH_COMPILE, Contestant, Entrant, Work

#: Module to import for an engine that does not use torch.
_BACKENDS = {"onnx": "onnxruntime"}


@dataclass(frozen=True)
class FirstBatch:
    """Seconds and memory of a fresh process until its first gradient.

    Attributes:
        seconds: time since the start of the process; the sum of the next three.
        import_seconds: time to start Python and import the backend.
        load_seconds: time to open the bundle, with its hashes, and the contestant.
        first_call_seconds: time of the first batch's gradient, including any compilation in that call.
        peak_mib: peak resident memory of the process; None if the system does not report it.
        peak_device_mib: peak memory that torch allocated on the GPU; None on a CPU.
    """

    seconds: float
    import_seconds: float
    load_seconds: float
    first_call_seconds: float
    peak_mib: float | None
    peak_device_mib: float | None


def measure_first_batch(contestant: Contestant, work: Work, inductor_cache: Path) -> dict[str, Any]:
    """Measure a contestant's first batch: ``{"cached": FirstBatch's fields, "cold": the same or None}``.

    A cold run is the first one ever, with an empty Inductor cache; it differs only for ``torch.compile``. A cached run
    is any later one.

    Args:
        contestant: the contestant to measure.
        work: the computation.
        inductor_cache: an empty folder for ``torch.compile``; afterwards it holds the compiled code.

    Raises:
        FailureError: the process failed.
    """
    cold = None
    environment = dict(os.environ)
    if contestant.name == TORCH_COMPILE:
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(inductor_cache)
        cold = _in_a_process(contestant, work, environment)
    return {"cached": _in_a_process(contestant, work, environment), "cold": cold}


def _in_a_process(contestant: Contestant, work: Work, environment: dict[str, str]) -> dict[str, Any]:
    task = {"contestant": asdict(contestant), "work": asdict(work), "started": time.time()}
    # -P: a folder named jboost in the current directory must not shadow the package.
    command = [sys.executable, "-P", "-m", __name__, json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise FailureError(f"the first batch of {contestant.label} failed in a separate process: {one_line(last)}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def first_batch(contestant: Contestant, work: Work, started: float) -> FirstBatch:
    """Compute one gradient in this process; `started` is the process's start, in seconds since the epoch."""
    import_module(_BACKENDS.get(contestant.name, "torch"))
    imported = time.time()
    entrant = Entrant(contestant, work)
    loaded = time.time()
    entrant.gradient()
    done = time.time()
    peak = peak_memory()
    return FirstBatch(
        seconds=done - started,
        import_seconds=imported - started,
        load_seconds=loaded - imported,
        first_call_seconds=done - loaded,
        peak_mib=None if peak is None else peak / 2**20,
        peak_device_mib=_peak_device_mib(work.device),
    )


def _peak_device_mib(device: str) -> float | None:
    if device_kind(device) != "cuda":
        return None
    import torch

    return torch.cuda.max_memory_allocated(device) / 2**20


def main() -> None:
    """Run the task given on the command line, and print its measurements."""
    task = json.loads(sys.argv[1])
    result = first_batch(Contestant(**task["contestant"]), Work(**task["work"]), task["started"])
    print(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
