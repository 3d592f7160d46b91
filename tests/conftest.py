"""Shared fixtures: a small joint model, its checkpoint and its bundle, and the command line as a user runs it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# How hard the C++ compiler tries on a package's host code, not on its kernels: packages compile in half the time. Inductor reads
# it when it is imported, here and in subprocesses.
os.environ.setdefault("AOT_INDUCTOR_COMPILE_WRAPPER_OPT_LEVEL", "O0")
# ONNX Runtime's thread that sends statistics, and its files in the home folder, are not the tests' business. It reads this when
# it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import children
import torch
from filelock import FileLock

from jboost.export.bundle import export_bundle
from jboost.trainer.architectures import build_network
from jboost.trainer.checkpoint import ModelInfo, save_checkpoint
from jboost.trainer.joint import JointModel

# pytest's log capture records every debug message that torch's tracer drops otherwise, which makes tracing several times slower.
for name in ("torch", "torch.__trace"):
    logging.getLogger(name).setLevel(logging.WARNING)

SIZE, CLASSES = 16, 5
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests and those of a GPU, which compile for minutes, may take longer than pyproject.toml's timeout."""
    for item in items:
        if item.get_closest_marker("slow") or item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Small operators on shared cores run many times faster on one thread than on two that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all of pytest-xdist's processes share for as long as the run lasts."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(autouse=True, scope="session")
def compiled_once(shared: Path) -> Iterator[None]:
    """A cache of compiled packages and a record of trusted code of the tests' own, for every process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JBOOST_CACHE", str(shared / "cache"))
        patch.setenv("JBOOST_TRUST", str(shared / "trusted"))
        yield


@pytest.fixture(scope="session")
def checkpoint(shared: Path) -> Path:
    """A small network, untrained; its head is scaled so that its gradients are as steep as a trained model's."""
    path = shared / "checkpoint" / "joint.safetensors"
    with FileLock(shared / "checkpoint.lock"):
        if not path.exists():
            torch.manual_seed(0)
            model = JointModel(build_network("small_resnet8", CLASSES, 3), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
            model.network.fc.weight.data.mul_(30)
            info = ModelInfo("small_resnet8", CLASSES, 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), l0=3.0, resolution=SIZE)
            path.parent.mkdir()
            save_checkpoint(path, model.eval(), info)
    return path


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, shared: Path) -> Path:
    """The checkpoint's bundle, to be read: a test that changes one copies it."""
    return _exported(checkpoint, shared / "bundle")


@pytest.fixture(scope="session")
def half(checkpoint: Path, shared: Path) -> Path:
    """The same with graphs in fp16 beside those in float32."""
    return _exported(checkpoint, shared / "half", dtypes=("fp32", "fp16"))


def _exported(checkpoint: Path, out: Path, **options: Any) -> Path:
    """A bundle that the first process to want it exports."""
    with FileLock(out.with_suffix(".lock")):
        if not out.exists():
            export_bundle(checkpoint, out, **options)
    return out


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """uint8 [23, 16, 16, 3], smooth, so that they look more like pictures than noise does."""
    rng = np.random.default_rng(1)
    coarse = torch.from_numpy(rng.random((23, 3, 4, 4)))
    fine = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")
    return (fine.numpy() * 255).astype(np.uint8).transpose(0, 2, 3, 1).copy()


@pytest.fixture(scope="session")
def labels(images: np.ndarray) -> np.ndarray:
    return np.arange(len(images), dtype=np.int64) % CLASSES


@pytest.fixture
def samples(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    path = tmp_path / "samples.npz"
    np.savez(path, images, labels)
    return path


@pytest.fixture(scope="session")
def jboost() -> Run:
    """Runs the command in a process where everything is imported: see `children.jboost`."""
    return children.jboost


@pytest.fixture(scope="session")
def installed() -> Run:
    """Runs the installed command in a subprocess. It takes seconds to import torch, so most tests take `jboost`."""

    def run(*args: object, cwd: Path | None = None, **options: object) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("jboost")), *map(str, args)]
        return subprocess.run(
            command, capture_output=True, text=True, cwd=cwd, env=os.environ | children.PLAIN, timeout=240, **options
        )

    return run
