"""The compile engine: packages compiled at export give the images that eager gives, and are refused where they do not belong."""

from __future__ import annotations

import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from closeness import assert_same_images
from torch._inductor import metrics

import jboost
from jboost.engine.backends.compiled.packages import artefact_name, machine_target
from jboost.engine.backends.compiled.runner import CompiledRunner
from jboost.engine.backends.eager.runner import EagerRunner
from jboost.engine.backends.registry import ENGINES, open_engine
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.errors import FailureError
from jboost.engine.method.objectives import OBJECTIVES
from jboost.engine.method.step import CHANGED, advance
from jboost.export.bundle import export_bundle
from jboost.export.compiled.cache import cache_folder
from jboost.export.compiled.packages import Compiler
from jboost.export.compiled.steps import example, step_package, unflatten, verify_step
from jboost.export.verification.gradient import tolerance
from jboost.export.verify import verify_bundle
from jboost.trainer.architectures import build_network
from jboost.trainer.joint import JointModel

BATCH = 8


@pytest.fixture(scope="module")
def compiled(checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("compile") / "bundle"
    export_bundle(checkpoint, out, formats=("compile",), dtypes=("fp32", "bf16"), batch_size=BATCH)
    return out


@pytest.mark.parametrize(
    "update", [jboost.PGD(10, 0.1), jboost.PGD(4, 0.2, eps=0.3), jboost.SGLD(4, 0.005, noise=0.01)]
)
@pytest.mark.parametrize("count", [23, 8, 1])
def test_images_are_those_of_eager(compiled, images, labels, update, count) -> None:
    results = []
    for engine in ("eager", "compile"):
        with jboost.load(compiled, engine=engine, device="cpu") as booster:
            results.append(booster.boost(images[:count], labels[:count], update).images)
    assert_same_images(*results)


@pytest.mark.slow
def test_every_objective_and_update_agrees_with_eager(checkpoint, tmp_path, images, labels) -> None:
    bundle = tmp_path / "bundle"
    export_bundle(checkpoint, bundle, formats=("compile",), objectives=tuple(OBJECTIVES), batch_size=BATCH)
    updates = (jboost.PGD(5, 0.1), jboost.PGD(5, 0.02, norm="linf", eps=0.05), jboost.SGLD(5, 0.002, noise=0.01))
    for objective in OBJECTIVES:
        for update in updates:
            results = []
            for engine in ("eager", "compile"):
                with jboost.load(bundle, engine=engine, device="cpu") as booster:
                    results.append(booster.boost(images, labels, update, objective=objective).images.astype(int))
            equal, apart = (results[0] == results[1]).mean(), np.abs(results[0] - results[1]).max()
            assert equal > 0.998, (objective, update, equal)
            # The sign of a gradient entry that is next to zero is a matter of rounding.
            assert apart <= 1 or update.kind == "pgd-linf", (objective, update, apart)


def gradient(runner, images, labels) -> torch.Tensor:
    x = runner.put(images[:BATCH].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    return runner.gradient(x, runner.put(labels[:BATCH])).grad.flatten(1)


def test_bf16_points_the_same_way_and_falls_back_to_float32(compiled, images, labels) -> None:
    bundle = Bundle(compiled)
    with EagerRunner(bundle, RunRequest("joint", 3.0, 16, device="cpu")) as runner:
        want = gradient(runner, images, labels)
    with CompiledRunner(bundle, RunRequest("joint", 3.0, 16, dtype="bf16")) as runner:
        got = gradient(runner, images, labels)
        x = runner.put(images[:BATCH].transpose(0, 3, 1, 2).astype(np.float32) / 255)
        float32 = runner.gradient(x, runner.put(labels[:BATCH]), in_float32=True).grad.flatten(1)
    assert torch.cosine_similarity(got, want).median() > 0.95  # an untrained network: a robust one does far better
    assert not torch.equal(got, want)
    torch.testing.assert_close(float32, want)


def test_small_maps_are_products_in_float32(tmp_path) -> None:
    torch.manual_seed(0)
    model = JointModel(build_network("small_resnet32", 5, 3), (0.5,) * 3, (0.5,) * 3).eval().requires_grad_(False)
    compiler = Compiler(model, (3, 8, 8), BATCH, 3.0, "cpu")

    def forms(dtype: str) -> set[str]:
        names = [name for name, _ in compiler.lowered(dtype).trunk.named_buffers()]
        return {form for form in ("winograd", "patches") if any(form in name for name in names)}

    assert forms("fp32") == {"winograd", "patches"}
    assert not forms("bf16")
    # Fails if it does not match autograd.
    compiler.gradient(tmp_path / "gradient.pt2", "joint", "fp32", tolerance("fp32", None, None))


def retimed(bundle: Path, copy: Path, **changes) -> Path:
    """A copy of a bundle in which the first engine in `changes` is said to be the fastest."""
    shutil.copytree(bundle, copy)
    config = Bundle(copy).config
    timings = tuple(replace(t, **changes.get(t.engine, {})) for t in config.timings)
    (copy / "config.json").write_text(replace(config, timings=timings).to_json())
    return copy


def test_auto_goes_by_the_times_of_the_export_or_by_a_trial(compiled, images, labels, tmp_path, caplog) -> None:
    timings = Bundle(compiled).config.timings
    assert {(t.engine, t.dtype) for t in timings} == {(e, d) for e in ("eager", "compile") for d in ("fp32", "bf16")}
    assert all(t.ms > 0 for t in timings)
    elsewhere = {engine: {"machine": "another"} for engine in ("eager", "compile")}
    cases = [
        (retimed(compiled, tmp_path / "a", eager={"ms": 1e-6}), "eager", "when the bundle was exported"),
        (retimed(compiled, tmp_path / "b", compile={"ms": 1e-6}), "compile", "when the bundle was exported"),
        (retimed(compiled, tmp_path / "c", **elsewhere), None, "in a trial"),
    ]
    for bundle, engine, when in cases:
        caplog.clear()
        with caplog.at_level(logging.INFO, "jboost"), jboost.load(bundle, trust_code=True) as booster:
            used = booster.boost(images, labels, jboost.PGD(1)).summary.engine
        assert engine in (None, used)
        assert f"engine {used}: " in caplog.text
        assert when in caplog.text
        assert "not onnx: bundle" in caplog.text
    with caplog.at_level(logging.INFO, "jboost"), jboost.load(compiled, batch_size=4) as booster:
        assert booster.boost(images, labels, jboost.PGD(1)).summary.engine == "eager"
    assert f"not compile: the package takes batches of {BATCH}, not 4" in caplog.text
    assert re.search(r"export it with: jboost export --ckpt FILE --format compile [^(]* -b 4 \(", caplog.text)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"objective": "logit"}, "--format compile --objective logit"),
        ({"dtype": "fp16"}, "--dtype fp16"),
        ({"l0": 1.0}, "--engine eager"),
        ({"device": "cuda"}, "--device cpu"),
    ],
)
def test_what_the_bundle_lacks_is_named(compiled, options, remedy) -> None:
    with pytest.raises(jboost.BadInputError, match=remedy) as e:
        open_engine(
            ENGINES["compile"],
            Bundle(compiled),
            replace(RunRequest("joint", 3.0, 16), **options),
        )
    assert "\n" not in str(e.value)


def test_what_the_bundle_lacks_is_compiled_on_first_use_and_kept(compiled, images, labels, caplog) -> None:
    """Another batch size, then the same again; a damaged package is made again rather than run."""
    runs = []
    with caplog.at_level(logging.INFO, "jboost"):
        for _ in range(2):
            caplog.clear()
            with jboost.load(compiled, engine="compile", batch_size=3) as booster:
                runs.append((booster.boost(images[:7], labels[:7], jboost.PGD(4, 0.1)), caplog.text))
        newest = max(cache_folder().glob("*.pt2"), key=lambda p: p.stat().st_mtime)
        newest.write_bytes(newest.read_bytes()[:-1] + b"?")
        caplog.clear()
        with jboost.load(compiled, engine="compile", batch_size=3) as booster:
            runs.append((booster.boost(images[:7], labels[:7], jboost.PGD(4, 0.1)), caplog.text))
    with jboost.load(compiled, engine="eager", device="cpu") as booster:
        want = booster.boost(images[:7], labels[:7], jboost.PGD(4, 0.1)).images.astype(int)
    (first, said), (second, quiet), (third, again) = runs
    assert first.summary.batch_size == 3
    assert np.abs(first.images - want).max() <= 1
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.images, third.images)
    assert said.count("compiling") == 3
    assert "compiling" not in quiet
    assert again.count("compiling") == 1


def test_without_a_compiler_the_first_use_says_so(compiled, images, labels) -> None:
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}),
        jboost.load(compiled, engine="compile", batch_size=5) as booster,
        pytest.raises(jboost.BadInputError, match="install one"),
    ):
        booster.boost(images, labels)


def test_nothing_is_compiled_while_a_run_lasts(compiled, images, labels) -> None:
    """Other numbers of steps, sizes of step and seeds are values of the same packages."""
    torch._dynamo.utils.counters.clear()
    before = set(cache_folder().iterdir()), metrics.generated_kernel_count
    with jboost.load(compiled, engine="compile") as booster:
        for i in range(3):
            booster.boost(images[: 9 + i], labels[: 9 + i], jboost.PGD(2 + i, 0.1 * (i + 1)), seed=i)
            booster.boost(images[: 9 + i], labels[: 9 + i], jboost.SGLD(2 + i, 0.001, noise=0.1 * i), seed=i)
    assert (set(cache_folder().iterdir()), metrics.generated_kernel_count) == before
    assert not torch._dynamo.utils.counters["stats"]


def test_a_wrong_step_is_found(tmp_path) -> None:
    path, figures = step_package("pgd-l2", BATCH, (3, 16, 16), "cpu")
    assert figures["worst"] < 1e-6
    with pytest.raises(FailureError, match="differs from numpy"):
        verify_step(path, "pgd-linf", BATCH, (3, 16, 16), "cpu")


@pytest.mark.parametrize("update_kind", ["pgd-l2", "pgd-linf", "sgld"])
def test_a_step_leaves_alone_whom_it_should(update_kind) -> None:
    """Eager torch and numpy agree too; empty slots, finished images and those that wait for float32 keep their rows."""
    for seed in range(4):
        arrays = [np.asarray(a) for a in example(16, (3, 5, 5), seed)]
        state, gradient, controls, in_float32 = unflatten(arrays)
        after = advance(update_kind, state, gradient, controls, in_float32)
        eager = advance(update_kind, *unflatten([torch.from_numpy(a) for a in arrays]))
        for name in CHANGED:
            np.testing.assert_allclose(getattr(after, name), getattr(eager, name).numpy(), rtol=1e-5, atol=2e-6)
        idle = ~(state.moving & (state.waiting == in_float32))
        assert idle.any()
        assert not idle.all()
        for name in set(CHANGED):
            np.testing.assert_array_equal(getattr(after, name)[idle], getattr(state, name)[idle])
        bad = ~np.isfinite(gradient.grad).all(axis=(1, 2, 3)) & ~idle
        np.testing.assert_array_equal(after.x[bad], state.x[bad])
        assert (after.failed[bad] | after.stopped[bad]).all() if in_float32 else after.waiting[bad].all()


def test_a_package_from_another_kind_of_machine_is_refused(compiled, tmp_path) -> None:
    copy = Path(shutil.copytree(compiled, tmp_path / "bundle"))
    config = Bundle(copy).config
    name = artefact_name("joint", "fp32", 16, "cpu")
    assert config.artefacts[name].target == machine_target("cpu")
    foreign = replace(config.artefacts[name], target="cpu SVE256, torch 2.13.0")
    (copy / "config.json").write_text(replace(config, artefacts=config.artefacts | {name: foreign}).to_json())
    with pytest.raises(jboost.BadInputError, match=r"SVE256.*this machine is"):
        open_engine(ENGINES["compile"], Bundle(copy, trust_code=True), RunRequest("joint", 3.0, 16))
    assert config.artefacts[name].file not in verify_bundle(Bundle(copy, trust_code=True))


def test_a_flipped_byte_is_refused(compiled, tmp_path) -> None:
    copy = Path(shutil.copytree(compiled, tmp_path / "bundle"))
    package = copy / Bundle(copy).config.artefacts[artefact_name("joint", "fp32", 16, "cpu")].file
    content = package.read_bytes()
    package.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    with pytest.raises(jboost.BadInputError, match="SHA-256"):
        open_engine(ENGINES["compile"], Bundle(copy, trust_code=True), RunRequest("joint", 3.0, 16))


def test_figures_are_kept_and_repeated(compiled) -> None:
    figures = verify_bundle(Bundle(compiled))
    assert len(figures) == 8  # forward.pt2; gradient and forward pass in two dtypes; three steps
    for artefact in Bundle(compiled).config.artefacts.values():
        if artefact.dtype == "fp32" and artefact.objective is not None:
            assert artefact.errors["grad_median"] < 1e-4
