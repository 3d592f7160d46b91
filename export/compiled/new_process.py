"""Load a compiled package in a new process, as its users will: a library that crashes there takes the process with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from jboost.engine.errors import FailureError, one_line

_LOAD = "import sys; from jboost.engine.backends.compiled.packages import load_package; load_package(*sys.argv[1:])"


def check_in_new_process(path: Path, device: str) -> None:
    """Load `path` on `device`, a torch device string, in a new process.

    The process that compiled a package has more libraries loaded than one that only runs it. On an H200 machine with torch 2.11,
    packages that the exporting process ran correctly crashed every process that loaded them afterwards.

    Raises:
        FailureError: the process ends with an error or by a signal.
    """
    done = subprocess.run([sys.executable, "-c", _LOAD, str(path), device], capture_output=True, text=True)
    if done.returncode == 0:
        return
    if done.returncode < 0:
        how = f"ends by signal {-done.returncode} ({signal.Signals(-done.returncode).name})"
    else:
        how = f"fails ({one_line(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else 'no message')})"
    raise FailureError(
        f"{path.name} was compiled, but a new process that loads it {how}; on this machine use --format onnx, or --engine eager"
    )
