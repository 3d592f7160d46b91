"""What a command may do with any file: end with 0, 2 or 1, in one line, soon, in bounded memory.

A command runs in a fork of this process, which has imported what it needs: dozens a second instead of one in two seconds.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

#: Seconds that a command may take, and bytes that it may allocate beyond what this process has.
SECONDS, MEMORY = 10, 3 << 30
_FORBIDDEN = ("Traceback", "this is a bug", "\x1b")


def preload() -> None:
    """Import what the commands need, without running any of it: a fork has only one thread."""
    import onnxruntime
    import pyarrow.parquet
    import safetensors.torch
    import torch

    torch.set_num_threads(1)
    del onnxruntime, pyarrow, safetensors


def run(arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run ``jboost ARGUMENTS`` in `folder`; returns (exit code, what it printed). Negative: the signal that ended it."""
    log = folder / "printed.txt"
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(arguments, folder, log)
    handle = os.pidfd_open(child)
    ended, _, _ = select.select([handle], [], [], SECONDS)
    os.close(handle)
    if not ended:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    printed = log.read_text(errors="replace")
    if not ended:
        return -signal.SIGALRM, f"{printed}\nstill running after {time.monotonic() - start:.0f} s"
    return os.waitstatus_to_exitcode(status), printed


def _become(arguments: Sequence[str], folder: Path, log: Path) -> None:
    """Turn this forked process into the command. Does not return."""
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.environ["OMP_NUM_THREADS"] = "1"
        sys.argv = ["jboost", *arguments]
        from jboost.cli.main import _run

        code = _run(list(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException as e:
        os.write(2, f"Traceback: {e!r}".encode())
        code = 99
    os._exit(code)


def complaint(code: int, printed: str) -> str | None:
    """What is wrong with a command's end; None if nothing is."""
    if code not in (0, 1, 2):
        return f"exit code {code}"
    for forbidden in _FORBIDDEN:
        if forbidden in printed:
            return f"prints {forbidden!r}"
    errors = [line for line in printed.splitlines() if line.startswith("jboost: ")]
    if code and len(errors) != 1:
        return f"exit code {code} with {len(errors)} error lines"
    if code and printed.strip().splitlines()[-1] != errors[0]:
        return "prints more after the error"
    return None
