"""`--step-size auto`: the first step has the stated length, whatever the engine, the batch, the split or an interruption."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from partial_cases import break_off
from shard_cases import ENGINE, jboost_in_child, make_shards

import jboost as api
from jboost.calibration import calibrated
from jboost.engine.errors import FailureError
from jboost.engine.method.auto_step import DEFAULT_FIRST_STEP, Aim, find_aim
from jboost.engine.method.settings import Settings
from jboost.engine.method.step import Gradient
from jboost.engine.method.updates import PGD, SGLD
from jboost.engine.shards.plan import make_plan
from jboost.engine.shards.record import read_record
from jboost.export.checkpoints.load import load_checkpoint
from jboost.on_ray.job import Job
from jboost.on_ray.worker import settle
from jboost.probing import PROBE, Probed, evenly
from jboost.shard_work import ShardRun

AUTO = ("--update", "sgld", "--steps", 2, "--step-size", "auto")


def norms(checkpoint: Path, images: np.ndarray, labels: np.ndarray, objective: str = "joint") -> np.ndarray:
    """L2 norm of the objective's gradient by autograd in float64, at each image that takes a step: l0 is 3."""
    model = load_checkpoint(checkpoint).model.double()
    x = (torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).double() / 255).requires_grad_()
    logits, y = model(x), torch.from_numpy(labels)
    f_c = logits.gather(1, y[:, None])[:, 0]
    loss, going = -f_c, torch.ones(len(y), dtype=torch.bool)
    if objective == "joint":
        real = torch.nn.functional.softplus(f_c)
        loss, going = torch.nn.functional.cross_entropy(logits, y, reduction="none") + (real - 3) ** 2 / 2, real < 3
        assert not going.all()
        going |= ~going.any()  # without any, all count
    return torch.autograd.grad(loss.sum(), x)[0].flatten(1).norm(dim=1)[going].numpy()


def step_size(length: float, lengths: np.ndarray) -> float:
    """The step size, from its definition: the mean root mean square of the first step is `length` levels of 255."""
    return float(f"{length / (255 * lengths.mean() / math.sqrt(16 * 16 * 3)):.3g}")


def boosted(tmp_path: Path, bundle: Path, source: object, out: str, *more: object, engine: tuple = ENGINE):
    ran = jboost_in_child(tmp_path, "boost", source, "--bundle", bundle, *engine, *AUTO, "-o", out, *more)
    assert ran.code == 0, ran.said
    return ran.said


# --- the number ------------------------------------------------------------------------------------------------------------------


def test_the_command_sets_it_says_so_and_keeps_it(
    bundle, checkpoint, samples, images, labels, jboost, tmp_path
) -> None:
    ran = jboost(
        "boost", samples, "--bundle", bundle, *ENGINE, *AUTO, "--json", "s.json", "--run", "run.npz", cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    want = step_size(DEFAULT_FIRST_STEP, norms(checkpoint, images, labels))
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["step_size"], summary["first_step"]) == (want, DEFAULT_FIRST_STEP)
    assert f"step size auto: {want:g}, so the first step changes a value by 1 grey level (RMS" in ran.stderr
    assert f"sgld 2 x {want:g} (auto: a first step of 1 grey level), objective joint" in ran.stdout
    page = jboost("report", "run.npz", "-o", "page.html", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert f"2 steps of {want:g}, set by auto for a first step of 1 grey level" in (tmp_path / "page.html").read_text()
    # It is the run with that number, and a stated number is no auto.
    stated = ("--update", "sgld", "--steps", 2, "--step-size", want, "--json", "n.json")
    same = jboost_in_child(tmp_path, "boost", samples, "--bundle", bundle, *ENGINE, *stated, "-o", "same.npz")
    assert same.code == 0, same.said
    with np.load(tmp_path / "samples.boosted.npz") as a, np.load(tmp_path / "same.npz") as b:
        np.testing.assert_array_equal(a["arr_0"], b["arr_0"])
    assert json.loads((tmp_path / "n.json").read_text())["first_step"] is None


@pytest.mark.parametrize(("engine", "batch"), [("onnx", 1), ("onnx", 7), ("eager", 5), ("eager", 64)])
def test_engine_and_batch_do_not_matter(bundle, checkpoint, images, labels, engine, batch) -> None:
    with api.load(bundle, engine=engine, device="cpu", batch_size=batch) as booster:
        got = booster.boost(images, labels, SGLD(2, noise=0.0), step_size="auto", first_step=2).summary
        assert (got.step_size, got.first_step) == (step_size(2, norms(checkpoint, images, labels)), 2)
        # Without labels the probe takes the model's predictions, as the run does.
        predicted = booster.boost(images, None, SGLD(0)).records["correct_before"]
        assert predicted.all()
        unlabelled = booster.boost(images, None, SGLD(1), step_size="auto").summary.step_size
        with torch.no_grad():
            x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
            classes = load_checkpoint(checkpoint).model(x).argmax(1).numpy()
    assert unlabelled == step_size(DEFAULT_FIRST_STEP, norms(checkpoint, images, classes))


def test_one_line_of_python_and_a_preset(bundle, checkpoint, samples, images, labels, tmp_path) -> None:
    engine = {"engine": "eager", "device": "cpu", "batch_size": 4}
    eager = ("--engine", "eager", "--device", "cpu", "-b", 4)
    preset = api.boost(images, labels, bundle=bundle, preset="released-sgld", step_size="auto", **engine)
    ran = jboost_in_child(
        tmp_path, "boost", samples, "--bundle", bundle, *eager, "--preset", "released-sgld", "--step-size", "auto",
        "-o", "out.npz", "--json", "s.json",
    )  # fmt: skip
    assert ran.code == 0, ran.said
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["arr_0"], preset)
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["step_size"] == step_size(DEFAULT_FIRST_STEP, norms(checkpoint, images, labels, "logit"))
    assert [summary[key] for key in ("steps", "noise", "objective", "early_stop")] == [15, 1e-4, "logit", False]


def test_the_probe_is_spread_over_the_set() -> None:
    assert evenly(5, 8).tolist() == [0, 1, 2, 3, 4]
    assert evenly(0, 8).tolist() == []
    spread = evenly(50_000, PROBE)
    assert len(spread) == PROBE
    assert np.bincount(spread // 5_000).tolist() == [13, 13, 12, 13, 13, 13, 13, 12, 13, 13]


# --- the same number for the whole run -------------------------------------------------------------------------------------------


def test_a_resumed_run_keeps_it(bundle, samples, images, labels, tmp_path) -> None:
    out, lines = tmp_path / "out.npz", ("--bundle", bundle, *AUTO, "--resume", "--json", "s.json")

    with api.load(bundle, engine="onnx", device="cpu", batch_size=4) as booster:
        settings = booster.settings(SGLD(2), step_size="auto")
        break_off(booster, samples, out, settings)
        want = booster.boost(images, labels, SGLD(2), step_size="auto")
    # Another length is another run, and so is the same number without auto.
    other = jboost_in_child(tmp_path, "boost", samples, *lines, "--first-step", 3, "-o", out)
    assert other.code == 2
    assert "first_step was 1.0, is 3.0" in other.said
    number = ("--update", "sgld", "--steps", 2, "--step-size", want.summary.step_size)
    other = jboost_in_child(tmp_path, "boost", samples, "--bundle", bundle, *number, "--resume", "-o", out)
    assert other.code == 2
    assert "first_step was 1.0, is None" in other.said
    # The number is the begun run's, even where it would now be measured as another one.
    header = out.with_name("out.npz.partial") / "run.json"
    begun = json.loads(header.read_text())["run"]
    assert begun["step_size"] == want.summary.step_size
    resumed = jboost_in_child(tmp_path, "boost", samples, *lines, "-b", 9, "-o", out)
    assert resumed.code == 0, resumed.said
    assert "step size auto" not in resumed.said  # not measured again
    assert json.loads((tmp_path / "s.json").read_text())["step_size"] == want.summary.step_size
    with np.load(out) as made:
        np.testing.assert_array_equal(made["arr_0"], want.images)


def test_all_shares_use_the_same(bundle, checkpoint, images, labels, tmp_path) -> None:
    order = np.argsort(images.mean((1, 2, 3)))  # shards of unlike images
    images, labels = images[order], labels[order]
    shards = make_shards(tmp_path / "in", "npz", images, labels)
    want = step_size(DEFAULT_FIRST_STEP, norms(checkpoint, images, labels))
    boosted(tmp_path, bundle, shards, "whole", "--json", "s.json", "--run", "run.npz")
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["step_size"], summary["first_step"]) == (want, DEFAULT_FIRST_STEP)
    for share in ("2/3", "0/3", "1/3"):  # whichever comes first
        boosted(tmp_path, bundle, shards, "parts", "--shard", share)
    assert read_record(tmp_path / "parts").identity["step_size"] == want
    for name in ("00.npz", "03.npz", "04.npz"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    merged = jboost_in_child(tmp_path, "merge", "parts")
    assert f"sgld 2 x {want:g} (auto: a first step of 1 grey level)" in merged.said
    again = jboost_in_child(
        tmp_path, "boost", shards, "--bundle", bundle, *ENGINE, *AUTO, "--first-step", 2, "-o", "parts", "--resume"
    )
    assert again.code == 2
    assert "first_step was 1.0, is 2.0" in again.said


def test_on_ray_the_run_is_settled_alike(bundle, checkpoint, images, labels, tmp_path) -> None:
    shards = make_shards(tmp_path / "in", "npz", images, labels)
    (tmp_path / "out").mkdir()
    run = ShardRun(make_plan([shards]), tmp_path / "out", engine="onnx", batch_size=4)
    method = {"step_size": "auto", "first_step": None}
    job = Job(run, str(bundle), "cpu", update="sgld", values={"steps": 2}, method=method)
    settled = settle(job).outcome.record
    assert settled.identity["step_size"] == step_size(DEFAULT_FIRST_STEP, norms(checkpoint, images, labels))


def test_shards_without_a_usable_first_one(bundle, images, labels, tmp_path) -> None:
    shards = make_shards(tmp_path / "in", "npz", images, labels)
    (shards / "00.npz").write_bytes((shards / "00.npz").read_bytes()[:100])
    ran = jboost_in_child(tmp_path, "boost", shards, "--bundle", bundle, *ENGINE, *AUTO, "-o", "out")
    assert ran.code == 1
    assert "1 of 5 shards could not be made" in ran.said
    assert read_record(tmp_path / "out").identity["step_size"] > 0


# --- what is refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--first-step", 1), "--first-step is the length for --step-size auto; add --step-size auto or leave it out"),
        (("--update", "sgld", "--step-size", 0.1, "--first-step", 1), "add --step-size auto or leave it out"),
        (("--update", "sgld", "--step-size", "auto", "--first-step", 0), "above 0 and at most 255 grey levels, got 0"),
        (("--update", "sgld", "--step-size", "auto", "--first-step", "nan"), "above 0 and at most 255 grey levels, got nan"),
    ],
)  # fmt: skip
def test_what_has_no_such_length_is_refused(bundle, samples, tmp_path, options, said) -> None:
    ran = jboost_in_child(tmp_path, "boost", samples, "--bundle", bundle, *options)
    assert ran.code == 2
    assert said in ran.said
    assert len(ran.said.splitlines()) == 1
    assert not list(tmp_path.glob("*boosted*"))


def test_a_step_size_is_a_number_or_auto(samples, tmp_path) -> None:
    ran = jboost_in_child(tmp_path, "boost", samples, "--step-size", "car")
    assert ran.code == 2
    assert "'car' is neither a number nor auto" in ran.said


def test_an_update_says_whether_its_step_scales(monkeypatch) -> None:
    class Other(SGLD):
        scales_with_gradient = False

    with pytest.raises(
        api.BadInputError, match=r"Other does not say how long its steps are.*--update pgd or --update sgld"
    ):
        find_aim(Other(), "auto", None)
    monkeypatch.setattr(Other, "scales_with_gradient", True)
    assert find_aim(Other(), "auto", None) == Aim(first_step=DEFAULT_FIRST_STEP)
    monkeypatch.setattr(Other, "step_size_for", lambda self, length, values: length)
    assert find_aim(Other(), "auto", None) == Aim(straightness=0.9556)  # of 15 steps
    assert find_aim(PGD(), None, None) == Aim()
    with pytest.raises(api.BadInputError, match=r"give a number to the update: SGLD\(step_size=0.002\)"):
        find_aim(SGLD(), 0.3, None)  # type: ignore[arg-type]


def test_a_stream_says_how_to_find_its_number(bundle, images, labels) -> None:
    options = {"bundle": bundle, "engine": "onnx", "device": "cpu", "update": "sgld", "steps": 2}
    with pytest.raises(api.BadInputError, match=r"boost some of its images first.*summary.step_size") as e:
        api.boost_iter([images], step_size="auto", **options)
    assert "\n" not in str(e.value)
    with api.load(bundle, engine="onnx", device="cpu") as booster:  # what it says
        found = booster.boost(images[:8], labels[:8], SGLD(2), step_size="auto").summary.step_size
    assert len(list(api.boost_iter([(images, labels)], step_size=found, **options))) == len(images)


class FakeRunner:
    """Gives each image the gradient that its first value stands for."""

    batch_size, dtype = None, "fp16"

    def __init__(self, gradients: dict[int, float]):
        self._of = gradients

    def put(self, array):
        return array

    get = put

    def gradient(self, x, y):
        values = np.array([self._of[round(255 * float(v))] for v in x[:, 0, 0, 0]], np.float32)
        grad = np.broadcast_to(values[:, None, None, None], x.shape)
        return Gradient(grad, np.where(y == 1, np.nan, 0).astype(np.float32), y * 0.0, y)


def measured(gradients: list[float], labels: list[int] | None = None) -> float:
    images = np.arange(len(gradients), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    y = np.array(labels or [0] * len(gradients))
    settings = Settings(SGLD(), "logit", None, False, 0, first_step=1.0)
    runner = FakeRunner(dict(enumerate(gradients)))
    found = calibrated(runner, settings, [Probed(images.__getitem__, y, np.arange(len(y)))], 2)  # type: ignore[arg-type]
    return found.update.step_size


def test_gradients_that_are_not_finite_do_not_count() -> None:
    assert measured([2.0]) == float(f"{1 / 255 / 2:.3g}")  # 4 values: norm 2 x 2, length 1/255 x 2
    assert measured([2.0, math.nan, math.inf, 2.0]) == measured([2.0])
    assert measured([2.0, 7.0, 0.0], [0, 1, 0]) == measured([1.0])  # the second one's logit is NaN; zeros count
    assert measured([1e-20]) == float(f"{1e20 / 255:.3g}")  # squares would vanish
    with pytest.raises(
        FailureError, match=r"no gradient of objective logit is finite at the 2 images.*or take --dtype fp32"
    ):
        measured([math.nan, math.inf])
    with pytest.raises(FailureError, match=r"is zero at the 2 images of the probe.*--objective energy"):
        measured([0.0, 0.0])


def test_images_that_have_reached_l0_do_not_count() -> None:
    found = []
    for l0 in (0.5, 1.0, None):  # the realness is log 2
        runner = FakeRunner({0: 2.0, 1: 2.0})
        settings = Settings(SGLD(), "logit", l0, l0 is not None, 0, first_step=1.0)
        part = Probed(lambda at: np.zeros((len(at), 2, 2, 1), np.uint8), np.zeros(2, int), np.arange(2))
        found.append(calibrated(runner, settings, [part], 2).update.step_size)  # type: ignore[arg-type]
    assert found == [measured([2.0])] * 3  # if all have, all count


def test_memory_that_does_not_suffice_is_one_line() -> None:
    class OutOfMemoryError(Exception):
        pass

    def gradient(x, y):
        raise OutOfMemoryError

    runner = SimpleNamespace(batch_size=8, put=lambda a: a, gradient=gradient)
    settings = Settings(SGLD(), "logit", None, False, 0, first_step=1.0)
    part = Probed(lambda at: np.zeros((len(at), 2, 2, 1), np.uint8), np.zeros(3, int), np.arange(3))
    with pytest.raises(FailureError, match="with 8 images in flight; take a smaller batch, such as -b 4, or"):
        calibrated(runner, settings, [part], 8)  # type: ignore[arg-type]
