"""The command line, as a user runs it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def jboost(*arguments: str) -> None:
    """Run the command line as a user would; exit with its message if it fails."""
    beside = shutil.which("jboost", path=str(Path(sys.executable).parent))
    command = [beside or "jboost", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(
            f"jboost {' '.join(arguments)}\nfailed with exit code {done.returncode}:\n{done.stderr or done.stdout}"
        )
