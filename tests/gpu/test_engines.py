"""The engines of torch on a CUDA device, against the eager engine on the CPU in float32."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from loop_cases import run_slots

import jboost
from jboost.engine.backends.array_runner import ArrayFlight
from jboost.engine.backends.compiled.captured import CapturedFlight
from jboost.engine.backends.compiled.runner import CompiledRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.method.noise import normal
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import PGD, SGLD
from jboost.export.bundle import export_bundle
from jboost.export.compiled import aoti

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
BATCH = 8
UPDATES = [PGD(6, 0.1), PGD(6, 0.1, eps=0.3), PGD(4, 0.01, norm="linf"), SGLD(6, 0.01, noise=0.01)]


@pytest.fixture(scope="module", autouse=True)
def untuned() -> Iterator[None]:
    """Packages are compiled without trying kernels against each other: which one computes a product is not at issue here."""
    configs = aoti.inductor_configs
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aoti, "inductor_configs", lambda device: configs(device) | {"max_autotune": False})
        yield


def export(checkpoint: Path, out: Path, objectives: tuple[str, ...], dtype: str) -> Path:
    """Packages for the GPU, verified against eager autograd by the export itself."""
    export_bundle(
        checkpoint, out, formats=("compile",), objectives=objectives, dtypes=(dtype,), batch_size=BATCH, device="cuda"
    )
    return out


@pytest.fixture(scope="module")
def compiled(checkpoint, tmp_path_factory) -> Path:
    return export(checkpoint, tmp_path_factory.mktemp("gpu") / "bundle", ("joint", "logit"), "fp32")


def boosted(bundle: Path, images, labels, update, **options) -> np.ndarray:
    objective = "logit" if isinstance(update, SGLD) else "joint"
    with jboost.load(bundle, **options) as booster:
        return booster.boost(images, labels, update, objective=objective, seed=3).images.astype(int)


@pytest.mark.parametrize("update", UPDATES, ids=repr)
@pytest.mark.parametrize("engine", ["eager", "compile"])
def test_float32_agrees_with_the_cpu(compiled, images, labels, engine, update) -> None:
    want = boosted(compiled, images, labels, update, engine="eager", device="cpu")
    got = boosted(compiled, images, labels, update, engine=engine, device="cuda")
    # A sign of a gradient near zero may turn round, so linf moves single pixels by whole steps.
    assert (np.abs(got - want) > 1).mean() < (0.01 if getattr(update, "norm", "") == "linf" else 0.001)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_half_precision_points_the_same_way(checkpoint, compiled, images, labels, dtype, tmp_path) -> None:
    want = boosted(compiled, images, labels, UPDATES[0], engine="eager", device="cpu") - images
    half = export(checkpoint, tmp_path / "bundle", ("joint",), dtype)
    got = boosted(half, images, labels, UPDATES[0], engine="compile", device="cuda", dtype=dtype) - images
    a, b = (v.reshape(len(images), -1).astype(float) for v in (got, want))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    moved = norms > 0
    cosine = (a * b).sum(1)[moved] / norms[moved]
    assert np.median(cosine) > 0.95


@pytest.mark.parametrize("update", UPDATES, ids=repr)
def test_a_captured_step_is_the_plain_one(compiled, images, labels, update, monkeypatch) -> None:
    """A graph that is replayed reads what is in its buffers now: fresh noise, new images, new rows, other step sizes."""
    objective = "logit" if isinstance(update, SGLD) else "joint"
    results = []
    limits = np.arange(len(images)) % 7
    for rows in (ArrayFlight, CapturedFlight):
        monkeypatch.setattr("jboost.engine.backends.compiled.runner.CapturedFlight", rows)
        with CompiledRunner(Bundle(compiled), RunRequest(objective, 3.0, 16, device="cuda")) as runner:
            for seed in (1, 2):
                how = Settings(update=update, objective=objective, l0=3.0, early_stop=True, seed=seed)
                store = run_slots(runner, images, labels, how, batch_size=BATCH, limits=limits)
                results.append((store.images, store.records))
    for plain, captured in zip(results[:2], results[2:], strict=True):
        np.testing.assert_array_equal(plain[0], captured[0])
        np.testing.assert_array_equal(plain[1], captured[1])


def test_noise_is_the_cpus() -> None:
    index, step = np.arange(5) * 2**33 + 7, np.arange(5)
    key = np.array([123, 456])
    want = normal((3, 16, 16), key=key, index=index, step=step)
    got = normal((3, 16, 16), key=torch.tensor(key), index=torch.tensor(index).cuda(), step=torch.tensor(step).cuda())
    np.testing.assert_allclose(got.cpu().numpy(), want, atol=2e-6)


def test_memory_does_not_grow_with_the_set(compiled, images, labels) -> None:
    """Twice as many images: the same peak of the device's memory."""
    peaks = []
    for copies in (4, 16):
        torch.cuda.reset_peak_memory_stats()
        boosted(
            compiled,
            np.tile(images, (copies, 1, 1, 1)),
            np.tile(labels, copies),
            PGD(3, 0.1),
            engine="compile",
            device="cuda",
        )
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] <= 1.05 * peaks[0]


def test_a_bundle_for_the_cpu_is_refused_or_compiled(bundle, images, labels, tmp_path) -> None:
    """What a bundle has no package for is compiled on first use for the GPU, and agrees."""
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    want = boosted(copy, images, labels, UPDATES[0], engine="eager", device="cpu")
    got = boosted(copy, images, labels, UPDATES[0], engine="compile", device="cuda", batch_size=BATCH)
    assert (np.abs(got - want) > 1).mean() < 0.001
