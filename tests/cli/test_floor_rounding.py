"""``--rounding floor`` through the command: both engines, the summary, the run file, resumes and shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from shard_cases import jboost_in_child

import jboost as api
from jboost.engine.results.run_file import read_run
from jboost.engine.samples import open_samples

HOW = ("--no-early-stop", "--steps", 3, "--step-size", 0.2, "-b", 8, "--device", "cpu")


def images_of(path: Path) -> np.ndarray:
    with np.load(path) as archive:
        return archive["arr_0"]


@pytest.mark.parametrize("engine", ["eager", "onnx"])
def test_fractions_are_cut_off(bundle, samples, tmp_path, engine) -> None:
    out = {}
    for rounding in ("nearest", "floor"):
        path, run = tmp_path / f"{rounding}.npz", tmp_path / f"{rounding}.run.npz"
        done = jboost_in_child(
            tmp_path, "boost", samples, "-o", path, "--bundle", bundle, "--engine", engine, "--rounding", rounding, *HOW,
            "--run", run, "--json", "summary.json",
        )  # fmt: skip
        assert done.code == 0, done.said
        assert ("fractions of a level are cut off" in done.said) == (rounding == "floor")
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert (summary["rounding"], read_run(run).summary["rounding"]) == (rounding, rounding)
        out[rounding] = images_of(path).astype(int)
        # Realness after is that of the pixels as written.
        with api.load(bundle, engine="eager", device="cpu") as b:
            again = b.boost(images_of(path), np.load(samples)["arr_1"], api.PGD(0)).summary
        assert summary["realness_after"] == pytest.approx(again.realness_before, rel=1e-5)
    lost = out["nearest"] - out["floor"]
    assert set(np.unique(lost)) == {0, 1}
    assert 0.3 < lost[images_of(samples) != out["nearest"]].mean() < 0.7


@pytest.mark.parametrize("engine", ["eager", "onnx"])
def test_no_value_of_256_is_lost_where_nothing_moved(bundle, engine) -> None:
    pixels = np.arange(3 * 256).reshape(3, 16, 16, 1) % 256
    images = np.concatenate([pixels, 255 - pixels, pixels], axis=3).astype(np.uint8)
    with api.load(bundle, engine=engine, device="cpu") as b:
        np.testing.assert_array_equal(b.boost(images, [0, 1, 2], api.PGD(0), rounding="floor").images, images)
        if engine == "eager":  # every image stops before its first step
            stopped = b.boost(images, objective="logit", l0=0.0, early_stop=True, rounding="floor")
            assert stopped.summary.stopped_early == 3
            np.testing.assert_array_equal(stopped.images, images)
        stream = b.boost_iter([images], api.PGD(2, 0.1), early_stop=False, rounding="floor")
        whole = b.boost(images, None, api.PGD(2, 0.1), early_stop=False, rounding="floor")
        np.testing.assert_array_equal(np.stack(list(stream)), whole.images)
        assert (whole.images != images).any()
    np.testing.assert_array_equal(
        api.boost(images, bundle=bundle, engine=engine, steps=2, early_stop=False, rounding="floor"), whole.images
    )


@pytest.mark.parametrize("first", ["floor", "nearest"])
def test_a_run_is_not_resumed_with_the_other_rounding(bundle, samples, tmp_path, first) -> None:
    other = {"floor": "nearest", "nearest": "floor"}[first]
    out = tmp_path / "out.npz"

    def kill(now):
        if now.finished >= 16:
            raise InterruptedError

    with api.load(bundle, engine="eager", device="cpu", batch_size=8) as b:
        settings = b.settings(api.PGD(3, 0.2), early_stop=False, rounding=first)
        with pytest.raises(InterruptedError):
            b.boost_file(open_samples(samples), out, settings, on_progress=kill)
    command = ("boost", samples, "-o", out, "--bundle", bundle, "--engine", "eager", *HOW, "--resume", "--rounding")
    refused = jboost_in_child(tmp_path, *command, other)
    assert refused.code == 2
    assert f"rounding was '{first}', is '{other}'" in refused.said
    assert "Traceback" not in refused.said
    done = jboost_in_child(tmp_path, *command, first)
    assert done.code == 0, done.said
    whole = jboost_in_child(tmp_path, *(word if word != out else "whole.npz" for word in command), first)
    assert whole.code == 0, whole.said
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_shards_and_ranges_are_cut_off_alike(bundle, samples, tmp_path) -> None:
    command = ("boost", samples, "--bundle", bundle, "--engine", "onnx", *HOW)
    for out, *more in (("one.npz",), ("ranges", "--shards", 2)):
        done = jboost_in_child(tmp_path, *command, "--rounding", "floor", "-o", out, *more)
        assert done.code == 0, done.said
    parts = [images_of(path) for path in sorted((tmp_path / "ranges").glob("*.npz"))]
    np.testing.assert_array_equal(np.concatenate(parts), images_of(tmp_path / "one.npz"))
    refused = jboost_in_child(tmp_path, *command, "-o", "ranges", "--shards", 2, "--resume")
    assert refused.code == 2
    assert "rounding was 'floor', is 'nearest'" in refused.said
    merged = jboost_in_child(tmp_path, "merge", "ranges", "--json", "merged.json")
    assert merged.code == 0, merged.said
    assert json.loads((tmp_path / "merged.json").read_text())["rounding"] == "floor"


def test_a_ball_and_floor_are_refused_in_one_line(jboost, bundle, samples, tmp_path) -> None:
    done = jboost("boost", samples, "-o", tmp_path / "o.npz", "--bundle", bundle, "--eps", 1, "--rounding", "floor")
    assert done.returncode == 2
    assert "use --rounding nearest, which keeps to the ball" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "o.npz").exists()
