"""The Python API on a real bundle: against an independent loop, at any batch size, killed and resumed."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import jboost
from jboost.engine.backends.eager.runner import EagerRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.method.objectives import OBJECTIVES
from jboost.engine.method.settings import Settings
from jboost.engine.results.identity import run_identity
from jboost.engine.results.store import DiskStore
from jboost.engine.samples import labels_of, open_samples
from jboost.export.checkpoints.load import load_checkpoint


@pytest.fixture(scope="module")
def booster(bundle):
    with jboost.load(bundle, engine="eager", device="cpu") as b:
        yield b


@pytest.fixture(scope="module")
def model(checkpoint):
    return load_checkpoint(checkpoint).model


def levels_apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_the_released_sgld_is_reproduced_to_one_level(booster, model, images, labels) -> None:
    # The released script, free of its batch average: 15 steps up the class logit, one clamp at the end.
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    y = torch.from_numpy(labels)
    for _ in range(15):
        x.requires_grad_()
        (grad,) = torch.autograd.grad(model(x).gather(1, y[:, None]).sum(), x)
        x = (x + 0.002 * grad).detach()
    want = (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    got = booster.boost(images, labels, jboost.SGLD(steps=15, step_size=0.002, noise=0.0), objective="logit")
    assert levels_apart(got.images, want) <= 1
    assert (got.images != images).mean() > 0.01  # it did something


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("update", [jboost.PGD(3, 0.2), jboost.PGD(3, 0.2, eps=0.3), jboost.SGLD(3, 0.01, noise=0.01)])
def test_results_do_not_depend_on_the_batch_size(bundle, images, labels, objective, update) -> None:
    runs = []
    for batch in (1, 7, 32):
        with jboost.load(bundle, engine="eager", device="cpu", batch_size=batch) as b:
            runs.append(b.boost(images, labels, update, objective=objective, early_stop=False).images)
    # Convolutions may sum in another order at another batch size; a pixel on the verge of rounding may then go either way.
    assert levels_apart(runs[0], runs[1]) <= 1
    assert levels_apart(runs[0], runs[2]) <= 1
    assert (runs[0] != runs[2]).mean() < 1e-3


def test_order_does_not_matter_to_pgd(booster, images, labels) -> None:
    order = np.random.default_rng(0).permutation(len(images))
    a = booster.boost(images, labels, jboost.PGD(3, 0.2)).images
    b = booster.boost(images[order], labels[order], jboost.PGD(3, 0.2)).images
    assert levels_apart(a[order], b) <= 1


def test_noise_follows_the_number_and_not_the_position(booster, images, labels, tmp_path) -> None:
    how, order = jboost.SGLD(3, 0.01, noise=0.05), np.random.default_rng(0).permutation(len(images))
    by_position = booster.boost(images, labels, how, seed=3).images
    assert np.array_equal(booster.boost(images, labels, how, seed=3, numbers=range(len(images))).images, by_position)
    moved = booster.boost(images[order], labels[order], how, seed=3, numbers=torch.from_numpy(order)).images
    assert levels_apart(moved, by_position[order]) <= 1  # a convolution may sum in another order
    assert levels_apart(booster.boost(images[order], labels[order], how, seed=3).images, moved) > 1

    numbers = np.random.default_rng(1).integers(0, 2**63, len(images))
    want = booster.boost(images, labels, how, seed=3, numbers=numbers).images
    assert levels_apart(want, by_position) > 1
    stream = booster.boost_iter(
        [(images[:5], labels[:5]), (images[5:], labels[5:])], how, seed=3, numbers=iter(numbers)
    )
    assert np.array_equal(np.stack(list(stream)), want)

    np.savez(tmp_path / "in.npz", images, labels)
    source, settings = open_samples(tmp_path / "in.npz"), booster.settings(how, seed=3)

    def stop(progress):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        booster.boost_file(source, tmp_path / "out.npz", settings, numbers=numbers, on_progress=stop)
    with pytest.raises(jboost.BadInputError, match="its images had other numbers for the noise"):
        booster.boost_file(source, tmp_path / "out.npz", settings, resume=True)
    booster.boost_file(source, tmp_path / "out.npz", settings, numbers=numbers, resume=True)
    assert np.array_equal(np.load(tmp_path / "out.npz")["arr_0"], want)


def test_numbers_that_cannot_be_used_are_refused(booster, images, labels) -> None:
    count = len(images)
    for numbers, why in (
        (np.arange(count) - 1, r"number of image 0 is -1; .* 2\*\*63 - 1"),
        (np.array([*range(count - 1), 2**63], np.uint64), rf"number of image {count - 1} is {2**63}"),
        ([*range(count - 1), 2**64], "dtype object; give whole numbers"),
        (np.arange(count) / 2, "dtype float64; give whole numbers"),
        (range(3), rf"shape \[3\]; give one for each of the {count} images"),
    ):
        with pytest.raises(jboost.BadInputError, match=why):
            booster.boost(images, labels, jboost.PGD(1), numbers=numbers)
    for stream_numbers, why in (([5, 6, 7], "ended after 3, but the stream has more"), ([5, -6], "image 1 is -6")):
        with pytest.raises(jboost.BadInputError, match=why):
            list(booster.boost_iter([(images, labels)], jboost.PGD(1), numbers=stream_numbers))


def test_zero_steps_give_back_the_bytes(booster, images, labels) -> None:
    got = booster.boost(images, labels, jboost.PGD(steps=0))
    np.testing.assert_array_equal(got.images, images)
    assert got.summary.l2_moved == 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_runner_gradients_are_confirmed_by_finite_differences(bundle, booster, images, labels, objective) -> None:
    with EagerRunner(booster.bundle, RunRequest(objective, 3.0, 16, device="cpu")) as runner:
        runner._model.double()
        x = torch.from_numpy(images[:3]).permute(0, 3, 1, 2).double() / 255
        y = torch.from_numpy(labels[:3])
        _, *rest = runner.gradient(x, y)
        # In double precision throughout: the runner rounds logits to float32, so the model is differentiated beside it.
        loss = lambda x: OBJECTIVES[objective](runner._model(x), y, 3.0)  # noqa: E731
        xg = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(xg).sum(), xg)
        torch.testing.assert_close(runner.gradient(x, y).grad, grad, rtol=1e-4, atol=1e-6)
        direction = torch.randn(x.shape, dtype=torch.double, generator=torch.Generator().manual_seed(0))
        h = 1e-7  # small enough that hardly a ReLU switches in between
        slope = (loss(x + h * direction) - loss(x - h * direction)) / (2 * h)
        torch.testing.assert_close((grad * direction).flatten(1).sum(1), slope, rtol=1e-3, atol=1e-6)
        assert len(rest) == 3


def test_boosting_lowers_the_objective_and_the_summary_says_what_the_model_says(booster, model, images, labels) -> None:
    got = booster.boost(images, labels, jboost.PGD(5, 0.2), objective="bce", early_stop=False)
    s = got.summary
    assert s.realness_after > s.realness_before
    with torch.no_grad():
        f = model(torch.from_numpy(got.images).permute(0, 3, 1, 2).float() / 255)
    f_c = f.gather(1, torch.from_numpy(labels)[:, None])[:, 0]
    assert s.realness_after == pytest.approx(torch.nn.functional.softplus(f_c).mean().item(), rel=1e-4)
    assert s.accuracy_after == pytest.approx((f.argmax(1).numpy() == labels).mean())
    moved = (got.images.astype(float) - images) / 255
    assert s.l2_moved == pytest.approx(np.sqrt((moved**2).sum(axis=(1, 2, 3))).mean(), rel=1e-4)


def test_missing_labels_are_the_prediction(booster, model, images) -> None:
    with torch.no_grad():
        predicted = model(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255).argmax(1).numpy()
    a = booster.boost(images, None, jboost.PGD(3, 0.2))
    b = booster.boost(images, predicted, jboost.PGD(3, 0.2))
    np.testing.assert_array_equal(a.images, b.images)
    assert (a.summary.labels, b.summary.labels) == ("predicted", "given")
    assert a.summary.accuracy_before is None


def test_early_stopping_compares_with_l0(booster, images, labels) -> None:
    low = booster.boost(images, labels, l0=0.0)
    assert low.summary.stopped_early == len(images)
    np.testing.assert_array_equal(low.images, images)
    high = booster.boost(images, labels, jboost.PGD(2, 0.1), l0=50.0)
    assert high.summary.stopped_early == 0
    assert high.summary.steps_used == 2


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_autocast_points_the_same_way(bundle, images, labels, dtype) -> None:
    grads = []
    for kind in ("fp32", dtype):
        with EagerRunner(jboost.load(bundle).bundle, RunRequest("bce", None, 16, device="cpu", dtype=kind)) as runner:
            x = runner.put(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
            grads.append(runner.gradient(x, runner.put(labels)).grad.flatten(1))
            assert grads[-1].dtype == torch.float32
    assert torch.cosine_similarity(*grads).median() > 0.9  # an untrained network: a trained one does far better


def test_a_killed_run_goes_on_and_gives_the_same_file(bundle, samples, tmp_path) -> None:
    source = open_samples(samples)

    class Killed(BaseException):
        pass

    with jboost.load(bundle, engine="eager", device="cpu", batch_size=4) as b:
        settings = b.settings(jboost.SGLD(3, 0.01, noise=0.05))
        b.boost_file(source, tmp_path / "whole.npz", settings, snapshots=(2, 1))
        shorter = {step: tmp_path / f"only{step}.npz" for step in (1, 2)}
        for step, path in shorter.items():
            b.boost_file(source, path, b.settings(jboost.SGLD(step, 0.01, noise=0.05)))

        def stop(progress):
            if progress.finished > 8:
                raise Killed

        out = tmp_path / "out.npz"
        with pytest.raises(Killed):
            b.boost_file(source, out, settings, snapshots=[1, 2], on_progress=stop)
        assert not out.exists()
        with pytest.raises(jboost.BadInputError, match="--resume"):
            b.boost_file(source, out, settings)
        with pytest.raises(jboost.BadInputError, match="seed was 0, is 1"):
            b.boost_file(
                source, out, b.settings(jboost.SGLD(3, 0.01, noise=0.05), seed=1), resume=True, snapshots=[1, 2]
            )
        with pytest.raises(jboost.BadInputError, match=r"snapshots was \[1, 2\], is \[1\]"):
            b.boost_file(source, out, settings, resume=True, snapshots=[1])
    seen = []
    with jboost.load(bundle, engine="eager", device="cpu", batch_size=4) as b:
        summary = b.boost_file(source, out, settings, resume=True, snapshots=[1, 2], on_progress=seen.append)
    assert (seen[0].total, seen[0].before) == (23, 8)
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    for step, path in shorter.items():
        assert (tmp_path / f"out.step{step}.npz").read_bytes() == path.read_bytes()
        assert (tmp_path / f"whole.step{step}.npz").read_bytes() == path.read_bytes()
    assert [(taken["step"], taken["file"]) for taken in summary.snapshots] == [
        (step, str(tmp_path / f"out.step{step}.npz")) for step in (1, 2)
    ]
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name or p.name.startswith(".")] == []


def test_the_identity_is_what_the_output_depends_on() -> None:
    facts = {"fingerprint": "f", "images": 3, "bundle": "b", "engine": "eager", "dtype": "fp32"}
    how = {"objective": "joint", "l0": 3.0, "early_stop": True, "seed": 7}
    updates = {
        "PGD(steps=15, step_size=0.1, eps=None, norm='l2')": jboost.PGD(),
        "SGLD(steps=3, step_size=0.01, noise=0.05)": jboost.SGLD(3, 0.01, noise=0.05),
    }
    for text, update in updates.items():
        want = {"input": "f", "images": 3, "bundle": "b", "engine": "eager", "dtype": "fp32", "update": text} | how
        assert run_identity(Settings(update, **how), **facts) == want
        assert run_identity(Settings(update, **how), **facts, snapshots=(1, 2)) == want | {"snapshots": [1, 2]}
        floor = run_identity(Settings(update, **how, rounding="floor"), **facts, labels="predicted")
        assert floor == want | {"rounding": "floor", "labels": "predicted"}


def test_a_partial_folder_that_is_none_is_refused(tmp_path, samples) -> None:
    (tmp_path / "out.npz.partial").mkdir()
    with pytest.raises(jboost.BadInputError, match="rm -r"):
        DiskStore(tmp_path / "out.npz", (1, 2, 2, 3), {}, resume=True)


def test_bad_arrays_are_refused(booster, images, labels) -> None:
    for bad_images, bad_labels, remedy in (
        (images.astype(np.int64), labels, "astype"),
        (images[:, :8, :8], labels, "--resolution 8"),
        (images[..., :1], labels, "np.repeat"),
        (images, labels + 1, "out of range"),
        (images, labels[:3], "3 labels for 23"),
    ):
        with pytest.raises(jboost.BadInputError, match=remedy):
            booster.boost(bad_images, bad_labels)


def test_class_folders_are_settled_against_the_bundle(booster, tmp_path, images) -> None:
    from PIL import Image

    for i, name in enumerate(["b", "a", "c"]):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(images[i]).save(tmp_path / "set" / name / "0.png")
    config = booster.bundle.config
    with pytest.raises(jboost.BadInputError, match="class number"):
        labels_of(open_samples(tmp_path / "set"), class_names=config.class_names, num_classes=config.num_classes)


def test_summary_is_plain_json(booster, images, labels) -> None:
    text = json.dumps(booster.boost(images, labels, jboost.PGD(1)).summary.to_dict())
    stable = "images steps stopped_early seconds images_per_second engine dtype device batch_size realness_before realness_after"
    stable += " accuracy_before accuracy_after l2_moved fallbacks"
    assert set(stable.split()) <= set(json.loads(text))


def test_auto_goes_on_with_the_engine_that_began(bundle, samples, tmp_path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    config = Bundle(copy).config
    timings = tuple(replace(t, ms=1e-6) if t.engine == "onnx" else t for t in config.timings)
    (copy / "config.json").write_text(replace(config, timings=timings).to_json())
    out, update = tmp_path / "out.npz", jboost.PGD(2, 0.1)

    def stop(now) -> None:
        if now.finished >= 8:
            raise KeyboardInterrupt

    with jboost.load(copy, engine="eager", device="cpu", batch_size=4) as booster, pytest.raises(KeyboardInterrupt):
        booster.boost_file(open_samples(samples), out, booster.settings(update, early_stop=False), on_progress=stop)
    with jboost.load(copy, device="cpu") as booster:
        settings = booster.settings(update, early_stop=False)
        assert booster.boost_file(open_samples(samples), out, settings, resume=True).engine == "eager"
        out.unlink()
        assert booster.boost_file(open_samples(samples), out, settings, resume=True).engine == "onnx"


def test_out_of_gpu_memory_says_which_batch_to_try(bundle, images, labels, monkeypatch) -> None:
    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with jboost.load(bundle, engine="eager", device="cpu", batch_size=8) as booster:
        monkeypatch.setattr("jboost.engine.backends.eager.runner.EagerRunner.gradient", full)
        with pytest.raises(jboost.FailureError, match="--resume -b 4"):
            booster.boost(images, labels)


@pytest.mark.parametrize("engine", ["eager", "onnx"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("linf", 8 / 255), ("l2", 0.02), ("l2", 0.5)])
def test_the_ball_holds_for_the_written_bytes_and_the_snapshots(bundle, images, labels, engine, norm, eps) -> None:
    with jboost.load(bundle, engine=engine, device="cpu") as b:
        got = b.boost(images, labels, jboost.PGD(4, 0.3, eps=eps, norm=norm), early_stop=False, snapshots=(2,))
    for boosted in (got.images, got.snapshots[2]):
        moved = (boosted.astype(float) - images) / 255
        if norm == "linf":
            assert np.abs(moved).max() == pytest.approx({0.03: 7 / 255}.get(eps, eps))
        distance = np.abs(moved).max() if norm == "linf" else np.sqrt((moved**2).sum((1, 2, 3)))
        assert (distance <= eps * (1 + 1e-6)).all()
        assert (boosted != images).any()


def test_without_a_ball_and_within_a_wide_one_the_bytes_are_the_same(booster, images, labels) -> None:
    free = booster.boost(images, labels, jboost.PGD(2, 0.3), early_stop=False).images
    wide = booster.boost(images, labels, jboost.PGD(2, 0.3, eps=50.0), early_stop=False).images
    np.testing.assert_array_equal(free, wide)


def test_auto_stands_beside_the_update_and_a_stream_is_told_how_to_get_a_number(booster, images) -> None:
    with pytest.raises(BadInputError, match="step size must be a number, got 'auto'; pass step_size=\"auto\" beside"):
        jboost.PGD(steps=4, step_size="auto")  # type: ignore[arg-type]
    with pytest.raises(
        BadInputError, match=r'a stream has no images .* PGD\(steps=4\), step_size="auto"\), and give the st'
    ):
        booster.boost_iter([images], jboost.PGD(steps=4), step_size="auto")
    size = booster.boost(images, None, jboost.PGD(steps=4), step_size="auto").summary.step_size
    streamed = list(booster.boost_iter([images], jboost.PGD(steps=4, step_size=size)))
    assert np.array_equal(streamed, booster.boost(images, None, jboost.PGD(steps=4), step_size="auto").images)
    assert jboost.PGD(steps=np.int64(4), step_size=np.float32(0.5)).step_size == 0.5
