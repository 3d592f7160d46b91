"""A hundred kills of boost, export and train: nothing half-written, nothing lost, the same result in the end."""

from __future__ import annotations

import kills
import pytest
from children import do

KILLS = 100


@pytest.mark.slow
@pytest.mark.parametrize("command", ["boost", "export", "train"])
def test_a_hundred_kills(command, checkpoint, bundle, samples, tmp_path) -> None:
    inputs = {"boost": [bundle, samples], "export": [checkpoint], "train": []}[command]
    (tmp_path / "work").mkdir()
    printed = do(getattr(kills, command), tmp_path / "work", KILLS, *inputs, seconds=1500)
    assert printed.splitlines()[-1].startswith(f"{KILLS} kills")
