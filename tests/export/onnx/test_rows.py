"""The gradient of rows in another order is the gradient in that order, bit for bit: onnx, eager and compile on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import moved_rows
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graph_models import ONE_OF_EACH, make
from moved_rows import Edges, Head, graph

from jboost.engine.method.objectives import OBJECTIVES
from jboost.export.onnx.lowering import to_onnx


def session(path: Path, threads: int = 1) -> moved_rows.Run:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    opened = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x, y: opened.run(None, {"x": x, "y": y})


@pytest.mark.parametrize(
    ("objective", "classes"),
    [
        *(("joint", classes) for classes in (2, 10, 37, 1000, 1001)),
        *((name, 37) for name in OBJECTIVES if name != "joint"),
    ],
)
def test_an_objective_does_not_depend_on_the_row(objective, classes, tmp_path) -> None:
    to_onnx(graph(Head(), (1, 1, classes), objective, None), tmp_path / "g.onnx")
    for threads in (1, 3):
        run = session(tmp_path / "g.onnx", threads)
        assert not moved_rows.moved_rows(run, (1, 1, classes), classes, range(1, 34))


def check(path: Path, shape: tuple[int, int, int], classes: int) -> None:
    for threads in (1, 3):
        assert not moved_rows.moved_rows(session(path, threads), shape, classes, (1, 2, 3, 5, 8, 31, 33))


def test_a_network_of_odd_sizes_does_not_depend_on_the_row(tmp_path) -> None:
    """And its other forms compute the same as autograd, to rounding."""
    to_onnx(graph(Edges(), (3, 9, 9), "joint", None), tmp_path / "g.onnx")
    check(tmp_path / "g.onnx", (3, 9, 9), 37)
    rng = np.random.default_rng(0)
    x, y = rng.random((5, 3, 9, 9), dtype=np.float32), rng.integers(0, 37, 5)
    grad, _, loss, _ = session(tmp_path / "g.onnx")(x, y)
    wanted_grad, wanted_loss = moved_rows.eager(Edges(), "joint")(x, y)
    np.testing.assert_allclose(grad, wanted_grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("classes", [2, 10, 37, 1000, 1001])
@pytest.mark.parametrize(("name", "channels", "size"), ONE_OF_EACH)
def test_networks_do_not_depend_on_the_row(name, channels, size, classes, tmp_path) -> None:
    shape = (channels, size, size)
    to_onnx(graph(make(name, channels, classes=classes), shape, "joint", None), tmp_path / "g.onnx")
    check(tmp_path / "g.onnx", shape, classes)


@pytest.mark.parametrize("classes", [16, 10])
def test_only_sums_that_end_within_a_vector_are_products(classes, tmp_path) -> None:
    """Layer norms and pooling of usual sizes keep their form, which runtimes fuse."""
    to_onnx(graph(Head(), (1, 1, classes), "ce", None), tmp_path / "g.onnx")
    found = {node.op_type for node in onnx.load(tmp_path / "g.onnx").graph.node}
    assert ("MatMul" in found) == (classes == 10)


@pytest.mark.parametrize("engine", ["eager", "compile", pytest.param("everything", marks=pytest.mark.slow)])
def test_torch_engines_do_not_depend_on_the_row(engine) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, moved_rows.__file__, engine], capture_output=True, text=True, env=environment, timeout=1500
    )
    assert done.returncode == 0, done.stderr[-2000:]
