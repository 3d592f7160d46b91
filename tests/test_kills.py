"""A hundred kills of boost, export and train: nothing half-written, nothing lost, the same result in the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import kills
import pytest

KILLS = 100


@pytest.mark.slow
@pytest.mark.parametrize("command", ["boost", "export", "train"])
def test_a_hundred_kills(command, checkpoint, bundle, samples, tmp_path) -> None:
    inputs = {"boost": [bundle, samples], "export": [checkpoint], "train": []}[command]
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        [sys.executable, kills.__file__, command, str(tmp_path / "work"), str(KILLS), *map(str, inputs)],
        cwd=Path(kills.__file__).parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith(f"{KILLS} kills")
