"""The process behind `jboost.export.compiled.workers`: a job per line on stdin, an answer per line on stdout, both JSON."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn

from jboost.engine.system.memory import give_back_memory

_PATIENCE = 5.0  # seconds for temporary folders to be removed


def _compile(program: str, path: str, device: str) -> dict[str, Any]:
    import torch

    import jboost.export.graph  # noqa: F401  (registers the operators that programs may hold)

    from .aoti import compile_package

    loaded = torch.export.load(program)
    os.unlink(program)  # it may be as large as the network
    compile_package(loaded, Path(path), device)
    return {}


def _step(update_kind: str, batch_size: int, shape: list[int], device: str) -> dict[str, Any]:
    from .steps import step_package

    channels, height, width = shape
    package, errors = step_package(update_kind, batch_size, (channels, height, width), device)
    return {"package": str(package), "errors": errors}


_JOBS: dict[str, Callable[..., dict[str, Any]]] = {"compile": _compile, "step": _step}


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    start = perf_counter()
    try:
        return {"result": _JOBS[job["do"]](**job["with"]), "seconds": perf_counter() - start}
    except Exception as e:
        number = (e.errno, e.strerror, e.filename) if isinstance(e, OSError) else None
        return {"error": type(e).__name__, "said": str(e), "system": number, "traceback": traceback.format_exc()}


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> None:
    """Answer jobs until stdin is closed. A job under way then ends too, with the compilers that it started."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    signal.signal(signal.SIGTERM, _end)
    jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    busy = threading.Event()

    def read() -> None:
        for line in sys.stdin:
            busy.set()
            jobs.put(json.loads(line))
        jobs.put(None)
        if busy.is_set():  # whoever wanted the answer is gone
            os.killpg(0, signal.SIGTERM)
            threading.Event().wait(_PATIENCE)
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=read, daemon=True).start()
    while (job := jobs.get()) is not None:
        if "threads" in job:
            import torch

            torch.set_num_threads(job["threads"])  # packages hold the number of threads
        said = _answer(job)
        busy.clear()
        answers.write(json.dumps(said) + "\n")
        answers.flush()
        give_back_memory()  # a worker stays while the export goes on


if __name__ == "__main__":
    main()
