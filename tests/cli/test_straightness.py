"""`--step-size auto` for PGD: the step is as long as the gradient keeps its direction, and the whole run uses one number."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from partial_cases import break_off
from shard_cases import ENGINE, make_shards

import jboost as api
from jboost.calibration import calibrated
from jboost.cli.main import _run
from jboost.engine.errors import FailureError
from jboost.engine.method.auto_step import LENGTHS, MOST_COSINES, straight_length, straightness_for
from jboost.engine.method.settings import Settings
from jboost.engine.method.step import Gradient
from jboost.engine.method.updates import PGD
from jboost.engine.shards.plan import make_plan
from jboost.engine.shards.record import read_record
from jboost.export.checkpoints.load import load_checkpoint
from jboost.on_ray.job import Job
from jboost.on_ray.worker import settle
from jboost.probing import Probed
from jboost.shard_work import ShardRun

AUTO = ("--steps", 4, "--step-size", "auto")


# --- the number, in closed form --------------------------------------------------------------------------------------------------


class Valley:
    """f(x) = ||a (x - t)||^2 / 2 + <c, x> for 2x2 images: curved along the first two values, a plane along the others.

    The image of class i has the gradient (g, g, g, g) with g = gs[i] at x0, whose first two values are at `level`. After a step of
    the RMS length L it is (g - L, g - L, g, g), for either norm; its cosine with the first is 0.8 where L = 6 g / 7.
    """

    batch_size, dtype = None, "fp32"

    def __init__(self, gs: list[float], reached: tuple[int, ...] = (), overflow: int | None = None, level: int = 128):
        self.gs, self.reached, self.overflow, self.level = gs, reached, overflow, level
        self.calls = 0

    def put(self, array):
        return array

    get = put

    def gradient(self, x, y):
        self.calls += 1
        g = np.array([self.gs[i] for i in y])
        grad = np.repeat(g[:, None], 4, axis=1)
        offset = x.reshape(len(x), 4)[:, :2] - np.float32(self.level / 255)
        grad[:, :2] += offset
        moved = np.abs(offset).max(axis=1) > 1e-6
        grad[(y == self.overflow) & moved] = np.nan
        logit = np.where(np.isin(y, self.reached), 9.0, 0.0)
        return Gradient(grad.reshape(x.shape).astype(np.float32), logit.astype(np.float32), logit, y)


def found(runner: Valley, update: PGD = PGD(4), l0: float | None = None) -> float:  # noqa: B008
    """The RMS length in grey levels that auto gives a step."""
    y = np.arange(len(runner.gs))
    images = np.full((len(y), 2, 2, 1), 128, np.uint8)
    images[:, 0] = runner.level
    settings = Settings(update, "joint", l0, l0 is not None, 0, straightness=0.8)
    size = calibrated(runner, settings, [Probed(images.__getitem__, y, y)], 2).update.step_size  # type: ignore[arg-type]
    return size * 255 / (1 if update.norm == "linf" else math.sqrt(4))


def want(g: float) -> float:
    return 255 * g * 6 / 7


@pytest.mark.parametrize("g", [0.002, 0.01, 0.03, 0.1])
@pytest.mark.parametrize("update", [PGD(4), PGD(4, norm="linf"), PGD(4, eps=1e-4)])
def test_the_length_is_that_of_the_closed_form(g, update) -> None:
    runner = Valley([g])
    assert found(runner, update) == pytest.approx(want(g), rel=0.03)  # the radius does not matter
    assert runner.calls <= 1 + MOST_COSINES
    assert found(Valley([g]), update) == found(Valley([g]), update)


def test_the_median_image_counts_and_images_at_l0_do_not() -> None:
    assert found(Valley([0.01, 0.02, 0.1])) == pytest.approx(want(0.02), rel=0.03)
    assert found(Valley([0.1, 0.1, 0.02], reached=(0, 1)), l0=3.0) == pytest.approx(want(0.02), rel=0.03)
    assert found(Valley([0.1, 0.1, 0.02], reached=(0, 1))) == pytest.approx(want(0.1), rel=0.03)  # no early stopping
    assert found(Valley([0.1, 0.1, 0.02], reached=(0, 1, 2)), l0=3.0) == pytest.approx(want(0.1), rel=0.03)
    # Nor does one whose gradient after the step is not finite.
    assert found(Valley([0.1, 0.02, 0.1], overflow=1)) == pytest.approx(want(0.1), rel=0.03)


def test_a_model_that_is_straight_or_turns_at_once_has_no_such_length() -> None:
    with pytest.raises(
        FailureError, match=r"keeps its direction over steps of 64 grey.*give a number, such as --step-size 0.1$"
    ):
        found(Valley([1.0]))
    with pytest.raises(FailureError, match=r"keeps its direction"):
        found(Valley([0.01], level=0))  # clamped, so the two values that bend it never move
    with pytest.raises(
        FailureError,
        match=r"turns within a step of 0.0625 grey levels \(RMS\).*; is the model robust\? To go on, give a n",
    ):
        found(Valley([1e-5]))
    # A sound model turns more than hundreds of steps may: then the number of steps is at fault.
    with pytest.raises(
        FailureError, match=r"below 0.8; take fewer steps, such as --steps 4, or give a number, such as --step"
    ):
        found(Valley([1e-5]), PGD(1000))
    with pytest.raises(FailureError, match="gradient of objective joint is zero at the 1 images"):
        found(Valley([0.0]))


def test_a_run_of_fewer_steps_may_turn_further_in_each() -> None:
    assert [straightness_for(n) for n in (0, 1, 2, 3, 4, 5, 20)] == [0.333, 0.333, 0.667, 0.778, 0.833, 0.867, 0.9667]
    assert straightness_for(10_000) == 0.9999333


@pytest.mark.parametrize("power", [0.5, 1, 2, 3])
@pytest.mark.parametrize("at", [0.07, 1.0, 5.7, 60])
def test_the_search_is_exact_for_bends_that_are_powers_of_the_length(power, at) -> None:
    asked: list[float] = []

    def cosine(length: float) -> float:
        asked.append(length)
        return 1 - 0.2 * (length / at) ** power

    length, reached = straight_length(cosine, 0.8)
    assert length == pytest.approx(at, rel=1e-6)
    assert reached == pytest.approx(0.8, abs=1e-6)
    assert len(asked) <= 6
    assert straight_length(lambda length: 1.0, 0.8).length == math.inf
    assert straight_length(lambda length: 0.0, 0.8).length == 0
    assert min(LENGTHS) == 1 / 16
    assert max(LENGTHS) == 64


@pytest.mark.parametrize("at", [0.3, 7.0, 40.0])
def test_the_search_looks_again_where_bends_are_no_power_of_the_length(at) -> None:
    """The cosine falls slowly, and steeply behind `at`: a length between the neighbours has another one than they let expect."""
    asked: list[float] = []

    def cosine(length: float) -> float:
        asked.append(length)
        return 0.9 - 0.2 * length / at if length < at else 0.7 - 3 * (length / at - 1)

    length, reached = straight_length(cosine, 0.6)
    assert reached == cosine(length) == pytest.approx(0.6, abs=0.02)
    assert len(asked) - 1 <= MOST_COSINES
    jumps = straight_length(lambda length: 1.0 if length < at else -1.0, 0.6)
    assert jumps.length == pytest.approx(at, rel=0.1)
    assert jumps.cosine in (1.0, -1.0)  # what was measured, not what was asked for


# --- the number, of a network ----------------------------------------------------------------------------------------------------


def cosine_of(checkpoint: Path, images: np.ndarray, labels: np.ndarray, length: float) -> float:
    """The median cosine of joint's gradients before and after a step of an L2 length, by autograd in float64; l0 is 3."""
    model, y = load_checkpoint(checkpoint).model.double(), torch.from_numpy(labels)

    def gradient(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x.detach().requires_grad_()
        logits = model(x)
        real = torch.nn.functional.softplus(logits.gather(1, y[:, None])[:, 0])
        loss = torch.nn.functional.cross_entropy(logits, y, reduction="none") + (real - 3) ** 2 / 2
        return torch.autograd.grad(loss.sum(), x)[0].flatten(1), real < 3

    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).double() / 255
    before, going = gradient(x)
    step = length * torch.nn.functional.normalize(before, dim=1).view_as(x)
    after, _ = gradient((x - step).clamp(0, 1))
    cosines = torch.nn.functional.cosine_similarity(before, after)[going]
    return float(cosines.quantile(0.5))


@pytest.mark.parametrize(("engine", "batch"), [("onnx", 7), ("eager", 64)])
def test_it_is_what_float64_says_whatever_engine_and_batch(bundle, checkpoint, images, labels, engine, batch) -> None:
    with api.load(bundle, engine=engine, device="cpu", batch_size=batch) as booster:
        got = booster.boost(images, labels, PGD(4), step_size="auto").summary
        again = booster.boost(images, labels, PGD(4), step_size="auto").summary
    assert (got.first_step, got.straightness) == (None, straightness_for(4))
    assert got.step_size == again.step_size == float(f"{got.step_size:.3g}")
    assert cosine_of(checkpoint, images, labels, got.step_size) == pytest.approx(got.straightness, abs=0.02)


def test_a_stated_length_needs_no_straightness(bundle, images, labels) -> None:
    with api.load(bundle, engine="onnx", device="cpu") as booster:
        for update, size in ((PGD(1), 2 / 255 * math.sqrt(16 * 16 * 3)), (PGD(1, norm="linf"), 2 / 255)):
            got = booster.boost(images, labels, update, step_size="auto", first_step=2).summary
            assert (got.step_size, got.first_step, got.straightness) == (float(f"{size:.3g}"), 2, None)


# --- the same number for the whole run -------------------------------------------------------------------------------------------


@pytest.fixture
def number(bundle, images, labels) -> float:
    with api.load(bundle, engine="onnx", device="cpu", batch_size=4) as booster:
        return booster.boost(images, labels, PGD(4), step_size="auto").summary.step_size


def test_the_command_sets_it_says_so_and_reports_it(bundle, samples, number, jboost, tmp_path) -> None:
    lines = ("boost", samples, "--bundle", bundle, *ENGINE)
    ran = jboost(*lines, *AUTO, "--json", "s.json", "--run", "run.npz", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["step_size"], summary["straightness"], summary["first_step"]) == (number, 0.833, None)
    said = rf"step size auto: {number:g}, a step of \d\.\d grey levels .* a cosine of 0\.8\d+ "
    assert re.search(said + r"\(median of \d+ images; 0\.833 for 4 steps\)", ran.stderr)
    said = "a cosine of 0.833 between the gradients before and after a step"
    assert f"pgd 4 x {number:g} (auto: {said}), objective joint" in ran.stdout
    page = jboost("report", "run.npz", "-o", "page.html", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert f"4 steps of {number:g}, set by auto for {said}" in (tmp_path / "page.html").read_text()
    # It is the run with that number.
    same = (*lines, "--steps", 4, "--step-size", number, "-o", tmp_path / "same.npz", "--json", tmp_path / "n.json")
    assert _run([str(word) for word in same]) == 0
    with np.load(tmp_path / "samples.boosted.npz") as a, np.load(tmp_path / "same.npz") as b:
        np.testing.assert_array_equal(a["arr_0"], b["arr_0"])
    assert json.loads((tmp_path / "n.json").read_text())["straightness"] is None


def test_a_resumed_run_keeps_it(bundle, samples, images, labels, tmp_path, capsys) -> None:
    out = tmp_path / "out.npz"

    with api.load(bundle, engine="onnx", device="cpu", batch_size=4) as booster:
        settings = booster.settings(PGD(4), step_size="auto")
        break_off(booster, samples, out, settings)
        whole = booster.boost(images, labels, PGD(4), step_size="auto")
    lines = [
        "boost",
        str(samples),
        "--bundle",
        str(bundle),
        "--resume",
        "-o",
        str(out),
        "--json",
        str(tmp_path / "s.json"),
    ]
    # A stated number is another run, and so is another length.
    for other, said in (
        (("--steps", 4, "--step-size", whole.summary.step_size), "straightness was 0.833, is None"),
        ((*AUTO, "--first-step", 3), "first_step was None, is 3.0"),
    ):
        assert _run([*lines, *map(str, other)]) == 2
        assert said in capsys.readouterr().err
    assert _run([*lines, *map(str, AUTO), "-b", "9"]) == 0
    assert "step size auto" not in capsys.readouterr().err  # not measured again
    assert json.loads((tmp_path / "s.json").read_text())["step_size"] == whole.summary.step_size
    with np.load(out) as made:
        np.testing.assert_array_equal(made["arr_0"], whole.images)


def test_all_shares_use_the_number_of_the_whole(bundle, images, labels, number, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shards = make_shards(tmp_path / "in", "npz", images, labels)
    lines = ["boost", str(shards), "--bundle", str(bundle), *map(str, (*ENGINE, *AUTO))]
    assert _run([*lines, "-o", str(tmp_path / "whole")]) == 0
    for share in ("2/3", "0/3", "1/3"):  # whichever comes first
        assert _run([*lines, "-o", str(tmp_path / "parts"), "--shard", share]) == 0
    assert read_record(tmp_path / "parts").identity["step_size"] == number
    for name in ("00.npz", "03.npz", "04.npz"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    capsys.readouterr()
    assert _run(["merge", str(tmp_path / "parts")]) == 0
    assert f"pgd 4 x {number:g} (auto: a cosine of 0.833 between" in capsys.readouterr().out
    # On Ray a worker settles the run in the same way.
    (tmp_path / "ray").mkdir()
    run = ShardRun(make_plan([shards]), tmp_path / "ray", engine="onnx", batch_size=4)
    method = {"step_size": "auto", "first_step": None}
    settled = settle(Job(run, str(bundle), "cpu", update="pgd", values={"steps": 4}, method=method)).outcome.record
    assert settled.identity["step_size"] == number


def test_a_stream_says_how_to_find_its_number(bundle, images, labels, number) -> None:
    options = {"bundle": bundle, "engine": "onnx", "device": "cpu", "steps": 4}
    with pytest.raises(api.BadInputError) as e:
        api.boost_iter([images], step_size="auto", norm="linf", **options)
    assert "images, labels, PGD(steps=4, norm='linf'), step_size=\"auto\"), and give the stream" in str(e.value)
    with pytest.raises(api.BadInputError, match=r'PGD\(steps=4\), step_size="auto", first_step=2\), and give'):
        api.boost_iter([images], step_size="auto", first_step=2, **options)
    with pytest.raises(api.BadInputError, match="step_size is \"auto\" here, got 'car'"):
        api.boost_iter([images], step_size="car", **options)
    assert len(list(api.boost_iter([(images, labels)], step_size=number, **options))) == len(images)
