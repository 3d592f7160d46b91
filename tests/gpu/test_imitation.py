"""ONNX Runtime's CUDA provider on the imitated GPU: a graph is captured once for each set of addresses, then only replayed."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "imitation"


@pytest.fixture(scope="module")
def imitation() -> Path:
    """The script that imitates a GPU; skips where it lacks something."""
    for tool in ("gcc", "nm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    spec = importlib.util.spec_from_file_location("imitation", FOLDER / "run.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    try:
        script.headers()
    except SystemExit as e:
        pytest.skip(str(e))
    if not any("onnxruntime" in library.name for library in script.users()):
        pytest.skip("onnxruntime-gpu is not installed")
    if not script.wanted()["libcudart.so.13"]:
        pytest.skip("ONNX Runtime is not built for CUDA 13")
    return FOLDER / "run.py"


@pytest.mark.slow
def test_a_graph_is_captured_once_and_then_replayed_on_our_stream_alone(imitation, bundle, tmp_path) -> None:
    calls = tmp_path / "calls.txt"
    graphs = [sys.executable, str(FOLDER / "onnx_graphs.py"), str(bundle), str(calls), "--batch", "8"]
    command = [sys.executable, str(imitation), "--log", str(calls), *graphs]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]  # not so where a capture forbids a call
    title, *runs = done.stdout.splitlines()
    assert title.endswith("all of it on the GPU")
    said = {line[:14].strip(): line[14:] for line in runs}
    for name in ("first", "elsewhere", "fewer"):
        assert "1 cudaGraphInstantiate" in said[name]
    for name in ("again", "back", "fewer again"):
        assert said[name] == "1 cudaGraphLaunch; 0 on other streams"
