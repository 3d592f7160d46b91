"""Compile packages side by side, each in a process of its own, while this process goes on.

Inductor's Python code and the C++ compiler use one core each. A thread per worker hands it a job and waits for the answer. The
processes are `jboost.export.compiled.worker`, not multiprocessing's: those run the user's script again where they start.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch

from jboost.engine import errors
from jboost.engine.errors import FailureError
from jboost.engine.method.updates import MOVES
from jboost.engine.system.devices import device_kind
from jboost.engine.system.environment import thread_count
from jboost.engine.system.machine import usable_cores
from jboost.engine.system.memory import available_memory

from .aoti import compile_package
from .steps import step_package

# A worker's peak: measured 2.2 GB for a ResNet-50, whose weights take 0.1 GB, and 0.5 GB for a small network.
_BASE, _PER_WEIGHT = 500 << 20, 18
_PATIENCE = 6.0  # seconds for a worker to end in order


class Done(NamedTuple):
    """A worker's answer: what the job returned, and the seconds it took."""

    result: dict[str, Any]
    seconds: float


class RemoteError(Exception):
    """A worker's traceback, as the cause of the error that is raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def worker_count(weight_bytes: int, device: str) -> int:
    """The number of processes to compile in; 0: compile in this process.

    One worker per core but for this process's own, and as many as the free memory holds beside it. None for a GPU: Inductor
    times kernels there, which must not disturb each other.

    Args:
        weight_bytes: the size of the network's weights.
        device: torch device string to compile for.
    """
    cores = min(usable_cores(), thread_count() or usable_cores())
    if device_kind(device) == "cuda" or sys.platform == "win32" or cores < 2:
        return 0
    free = available_memory()
    fit = cores - 1 if free is None else free // (_BASE + _PER_WEIGHT * weight_bytes) - 1
    return max(0, min(cores - 1, fit))


class Workers:
    """Processes that compile; leaving the block ends them, with a job under way.

    Args:
        count: processes at most; each starts with its first job.
    """

    def __init__(self, count: int):
        self.count = count
        self._pool = ThreadPoolExecutor(max(count, 1), thread_name_prefix="jboost-compile")
        self._own = threading.local()
        self._started: list[subprocess.Popen[str]] = []
        self._idle: list[subprocess.Popen[str]] = []
        self._waiting = 0  # jobs that no worker has begun
        self._last = self._closed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._started:
            _end(process)
        self._pool.shutdown()

    def compile(self, program: torch.export.ExportedProgram, path: Path, device: str) -> Future[Done]:
        """Compile a program into the package `path`; without workers, now.

        The result raises what `jboost.export.compiled.aoti.compile_package` raises, or FailureError if the worker dies.
        """
        if not self.count:
            return _now(lambda: compile_package(program, path, device))
        saved = path.with_suffix(".program.pt2")  # the worker removes it
        buffer = io.BytesIO()  # torch's own file writer aborts the process when the disk is full (torch 2.13)
        torch.export.save(program, buffer)
        saved.write_bytes(buffer.getbuffer())
        return self._submit("compile", path.name, program=str(saved), path=str(path), device=device)

    def step(self, update_kind: str, batch_size: int, shape: tuple[int, int, int], device: str) -> Future[Done]:
        """Compile an update kind's step, see `jboost.export.compiled.steps.step_package`; without workers, now.

        The result holds ``package`` and ``errors``. An update from outside jboost is compiled here and now too: a worker may
        not know it.
        """
        if not self.count or not MOVES[update_kind].__module__.startswith("jboost.engine."):

            def work() -> dict[str, Any]:
                package, errors = step_package(update_kind, batch_size, shape, device)
                return {"package": str(package), "errors": errors}

            return _now(work)
        options = {"update_kind": update_kind, "batch_size": batch_size, "shape": shape, "device": device}
        return self._submit("step", f"the step of {update_kind}", **options)

    def no_more(self) -> None:
        """End each worker as soon as no job is left for it: an idle one keeps its memory."""
        with self._lock:
            self._last = True
            for process in self._idle:
                _close(process)

    def _submit(self, do: str, what: str, **options: Any) -> Future[Done]:
        with self._lock:
            self._waiting += 1
        return self._pool.submit(self._run, {"do": do, "with": options, "threads": torch.get_num_threads()}, what)

    def _run(self, job: dict[str, Any], what: str) -> Done:
        with self._lock:
            self._waiting -= 1
        process: subprocess.Popen[str] | None = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        with self._lock, suppress(ValueError):
            self._idle.remove(process)
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            self._own.process = None
            raise FailureError(f"{what} could not be compiled: {_death(process.wait())}")
        with self._lock:
            self._idle.append(process)
            if self._last and not self._waiting:
                _close(process)
        answer = json.loads(line)
        if "error" in answer:
            raise _error(answer) from RemoteError(answer["traceback"])
        return Done(answer["result"], answer["seconds"])

    def _start(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._closed:
                raise FailureError("compiling was stopped")
            # A session of its own, so that it ends with its compilers, and when this process says so.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "jboost.export.compiled.worker"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            )  # fmt: skip
            self._started.append(process)
            return process


def _now(work: Callable[[], dict[str, Any] | None]) -> Future[Done]:
    done: Future[Done] = Future()
    start = perf_counter()
    result = work()
    done.set_result(Done(result or {}, perf_counter() - start))
    return done


def _close(process: subprocess.Popen[str]) -> None:
    """Ask a worker to end: an idle one does, a busy one ends its compilers first."""
    assert process.stdin is not None
    with suppress(OSError):
        process.stdin.close()


def _end(process: subprocess.Popen[str]) -> None:
    """End a worker and what it started: in order if it can, else at once."""
    _close(process)
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _death(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the system ended the process, as it does when memory runs out; free some memory and export again"
    how = f"by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"with exit code {code}"
    return f"its process ended {how}; on this machine use --format onnx, or --engine eager"


def _error(answer: dict[str, Any]) -> Exception:
    """The worker's error, as this process would have raised it."""
    name, said = answer["error"], answer["said"]
    if answer["system"] is not None:
        return OSError(*answer["system"])
    kind = getattr(errors, name, None) or getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, (errors.JboostError, MemoryError)):
        return kind(said)
    return RuntimeError(f"{name}: {said}")
