from __future__ import annotations

import pytest
import torch

from jboost.engine.errors import FailureError
from jboost.export.compiled import new_process
from jboost.export.compiled.aoti import compile_package


def test_a_package_that_loads_passes_and_a_broken_one_is_named_with_the_reason(tmp_path) -> None:
    path = tmp_path / "a.pt2"
    with torch.no_grad():
        compile_package(torch.export.export(torch.nn.Linear(2, 2).eval(), (torch.rand(1, 2),)), path, "cpu")
    new_process.check_in_new_process(path, "cpu")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(
        FailureError, match=r"a\.pt2 was compiled, but a new process that loads it fails \(.*--engine eager"
    ) as e:
        new_process.check_in_new_process(path, "cpu")
    assert "\n" not in str(e.value)


def test_a_crash_is_told_by_its_signal(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(new_process, "_LOAD", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(FailureError, match=r"ends by signal 11 \(SIGSEGV\); on this machine use --format onnx"):
        new_process.check_in_new_process(tmp_path / "a.pt2", "cuda:0")
