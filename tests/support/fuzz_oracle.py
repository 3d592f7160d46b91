"""What a command may do with any file: end with 0, 2 or 1, in one line, soon, in bounded memory.

A command runs in a `Child`, which has imported what it needs: dozens a second instead of one in two seconds.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Sequence
from pathlib import Path

from children import Child, command

#: Seconds that a command may take, and bytes that it may allocate beyond what this process has.
SECONDS, MEMORY = 10, 3 << 30
_FORBIDDEN = ("Traceback", "this is a bug", "\x1b")


def run(arguments: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run ``jboost ARGUMENTS`` in `folder`; returns (exit code, what it printed). Negative: the signal that ended it."""
    child = Child(_limited, list(arguments), str(folder), environment=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        return child.wait(SECONDS), child.stdout
    except AssertionError as still_running:
        return -signal.SIGALRM, str(still_running)


def _limited(arguments: list[str], folder: str) -> None:
    """The command with little memory and one stream, in which the order of what it prints shows."""
    os.dup2(1, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    command(arguments, folder)


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
