"""`jboost eval` as a user runs it, and every input it cannot use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from PIL import Image

from jboost.cli.main import main
from jboost.engine.errors import BadInputError
from jboost.engine.samples import ReadOptions
from jboost.evaluation import METRICS, evaluate

FACTORY = """
import torch

torch.manual_seed(0)
weights = torch.randn(6, 3)

def make():
    def features(x):
        pooled = torch.nn.functional.adaptive_avg_pool2d(x, 2)
        f = torch.einsum("dc,bchw->bdhw", weights, pooled).flatten(1)
        return {"features": f, "logits": 3 * f[:, :5], "spatial": pooled.permute(0, 2, 3, 1)}
    return features

def broken():
    return lambda x: x.mean((2, 3)) / (x[:, :1].mean((2, 3)) > 0.5)
"""
FEATURES = ("--features", "own_extractor:make", "--device", "cpu")


def pictures(n: int, seed: int, brighter: float = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.normal(120 + brighter, 40, (n, 4, 4, 3))
    return coarse.repeat(4, 1).repeat(4, 2).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("desk")
    (root / "own_extractor.py").write_text(FACTORY)
    real = pictures(200, 0)
    np.savez(root / "ref.npz", real)
    np.savez(root / "before.npz", pictures(150, 1, 30), np.arange(150) % 5)
    np.savez(root / "after.npz", pictures(150, 1, 10))
    np.savez(root / "few.npz", pictures(3, 2))
    np.savez(root / "one.npz", pictures(1, 2))
    np.savez(root / "grey.npz", pictures(50, 3)[..., :1])
    np.savez(root / "large.npz", pictures(50, 3).repeat(2, 1).repeat(2, 2))
    np.savez(root / "floats.npz", pictures(5, 3) / 255)
    (root / "pngs").mkdir()
    for i, image in enumerate(real[:40]):
        Image.fromarray(image).save(root / "pngs" / f"{i:03d}.png")
    rng = np.random.default_rng(4)
    x, s = rng.normal(size=(500, 24)), rng.normal(size=(500, 12))
    mu, sigma, mu_s, sigma_s = x.mean(0), np.cov(x.T), s.mean(0), np.cov(s.T)
    np.savez(root / "stats.npz", mu=mu, sigma=sigma)
    torch.save({"mu": mu, "sigma": sigma}, root / "cached.pt")
    np.savez(root / "spatial.npz", mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    np.savez(root / "openai.npz", real, mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s)
    np.savez(root / "halved.npz", mu=mu)
    np.savez(root / "inception.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez(root / "spatial_wrong.npz", mu=mu, sigma=sigma, mu_s=mu, sigma_s=sigma)
    np.savez(root / "nan.npz", mu=mu, sigma=np.where(np.eye(24) > 0, np.nan, sigma))
    np.savez(root / "skew.npz", mu=mu, sigma=np.triu(np.ones((24, 24))))
    np.savez(root / "flat.npz", mu=mu, sigma=sigma[0])
    np.savez(root / "nameless.npz", features=x.astype(np.float32))
    (root / "text.npz").write_text("hello")
    return root


@pytest.fixture
def there(desk, monkeypatch) -> Path:
    monkeypatch.chdir(desk)
    return desk


def test_before_against_after_in_a_table_and_in_json(installed, desk, tmp_path) -> None:
    done = installed("eval", "ref.npz", "before.npz", "after.npz", *FEATURES, "--json", tmp_path / "r.json", cwd=desk)
    assert done.returncode == 0, done.stderr
    assert "ref.npz: no labels (no arr_1)" in done.stderr
    for word in ("before.npz", "change", "FID", "coverage", "own_extractor:make", "200 images", "lower", "(!)"):
        assert word in done.stdout
    result = json.loads((tmp_path / "r.json").read_text())
    assert set(result) == {
        "protocol", "extractor", "reference", "samples", "bootstrap", "device", "seconds", "warnings",
    }  # fmt: skip
    assert result["protocol"] == "openai"
    assert set(result["extractor"]) == {"name", "kind", "source", "sha256", "remark", "input_max", "dimensions"}
    assert result["reference"] == {"path": "ref.npz", "kind": "images", "images": 200}
    assert result["bootstrap"] == {"resamples": 100, "seed": 0, "level": 0.95}
    before, after = result["samples"]
    assert (before["path"], before["images"], before["size"]) == ("before.npz", 150, [16, 16, 3])
    assert list(before["metrics"]) == list(METRICS)
    keys = {
        "value", "interval", "bootstrap_bias", "deviation", "change_percent", "change_interval", "unavailable", "warning",
    }  # fmt: skip
    for key, metric in after["metrics"].items():
        assert set(metric) == keys
        assert metric["unavailable"] is None
        if key != "sfid":
            low, high = metric["interval"]
            assert low <= metric["value"] <= high
    fid = after["metrics"]["fid"]
    change = 100 * (fid["value"] / before["metrics"]["fid"]["value"] - 1)
    assert fid["change_percent"] == pytest.approx(change)
    assert fid["change_interval"][0] < change < fid["change_interval"][1] < 0
    assert before["metrics"]["fid"]["change_percent"] is None


def test_json_on_stdout_is_nothing_but_json(jboost, desk) -> None:
    done = jboost(
        "eval", "ref.npz", "after.npz", *FEATURES, "--json", "-", "--metrics", "fid,is", "--bootstrap", 0, cwd=desk
    )
    result = json.loads(done.stdout)
    assert list(result["samples"][0]["metrics"]) == ["fid", "is"]
    assert result["samples"][0]["metrics"]["fid"]["interval"] is None
    assert "FID" in done.stderr


def test_a_bad_input_is_one_line_in_a_process_of_its_own(jboost, desk) -> None:
    done = jboost("eval", "ref.npz", "after.npz", cwd=desk)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "--features" in done.stderr
    assert "pt_inception-2015-12-05-6726825d.pth" in done.stderr


BAD = {
    "no reference": (["none.npz", "after.npz"], "does not exist"),
    "no samples": (["ref.npz", "none.npz"], "does not exist"),
    "not an npz": (["text.npz", "after.npz"], "np.savez"),
    "floats": (["ref.npz", "floats.npz"], "uint8"),
    "grey against colour": (["ref.npz", "grey.npz"], "--channels 3"),
    "statistics as samples": (["ref.npz", "stats.npz"], "samples must be images"),
    "cached statistics as samples": (["ref.npz", "cached.pt"], "holds statistics (mu, sigma) and no images; only"),
    "sigma missing": (["halved.npz", "after.npz"], "sigma"),
    "statistics of another extractor": (["inception.npz", "after.npz"], "2,048"),
    "spatial statistics of another extractor": (["spatial_wrong.npz", "after.npz"], "mu_s"),
    "statistics not finite": (["nan.npz", "after.npz"], "not finite"),
    "statistics not symmetric": (["skew.npz", "after.npz"], "not a covariance"),
    "statistics of a wrong shape": (["flat.npz", "after.npz"], "[D, D]"),
    "features of nobody": (["nameless.npz", "after.npz"], "--save-features"),
    "NaN features": (["ref.npz", "after.npz", "--features", "own_extractor:broken"], "own_extractor:broken gave NaN"),
    "unknown metric": (["ref.npz", "after.npz", "--metrics", "fid,fd"], "coverage"),
    "too few resamples": (["ref.npz", "after.npz", "--bootstrap", "5"], "at least 20"),
    "bad batch": (["ref.npz", "after.npz", "-b", "0"], "at least 1"),
    "unknown device": (["ref.npz", "after.npz", "--device", "tpu"], "cuda:N"),
    "json in no folder": (["ref.npz", "after.npz", "--json", "no/r.json"], "--json"),
    "features kept in no folder": (["ref.npz", "after.npz", "--save-features", "no/f.npz"], "--save-features"),
    "features kept as another kind": (["ref.npz", "after.npz", "--save-features", "f.pt"], ".npz"),
    "features kept over the reference": (["ref.npz", "after.npz", "--save-features", "ref.npz"], "another path"),
    "features kept of statistics": (["stats.npz", "after.npz", "--save-features", "f.npz"], "statistics only"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(there, capsys, case) -> None:
    arguments, remedy = BAD[case]
    options = [] if "--features" in arguments else list(FEATURES)
    before = sorted(p.name for p in there.iterdir() if p.name != "__pycache__")
    with pytest.raises(SystemExit) as exit_:
        main(["eval", *options, *arguments])
    shown = capsys.readouterr()
    assert exit_.value.code == 2, shown.err
    assert remedy in shown.err
    assert shown.err.startswith("jboost: ")
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert sorted(p.name for p in there.iterdir() if p.name != "__pycache__") == before


def measured(reference: str, *samples: str, **options):
    options = {"features": "own_extractor:make", "device": "cpu", "resamples": 0} | options
    return evaluate(reference, samples, **options)


def test_a_set_against_itself(there) -> None:
    numbers = measured("ref.npz", "ref.npz").samples[0].metrics
    assert numbers["fid"].value == pytest.approx(0, abs=1e-7)
    assert numbers["sfid"].value == pytest.approx(0, abs=1e-7)
    assert numbers["precision"].value == numbers["recall"].value == numbers["coverage"].value == 1


def test_batch_size_labels_and_file_kind_change_nothing(there) -> None:
    how = {"protocol": "openai"}  # a folder's default is another
    whole = measured("pngs", "before.npz", batch_size=1000, **how).samples[0].metrics
    np.savez(there / "forty.npz", pictures(200, 0)[:40])
    np.savez(there / "unlabelled.npz", np.load("before.npz")["arr_0"])
    parts = measured("forty.npz", "unlabelled.npz", batch_size=7, **how).samples[0].metrics
    for key, number in whole.items():
        assert parts[key].value == pytest.approx(number.value, rel=1e-5), key


def test_statistics_give_fid_and_sfid_and_say_why_not_the_others(there) -> None:
    result = measured("spatial.npz", "after.npz")
    numbers = result.samples[0].metrics
    with np.load("spatial.npz") as ref:
        mu_s, sigma_s = ref["mu_s"], ref["sigma_s"]
    x = np.load("after.npz")["arr_0"].astype(np.float64) / 255
    pooled = x.reshape(150, 2, 8, 2, 8, 3).mean((2, 4))
    s = pooled.reshape(150, -1)  # channels last
    cov = np.cov(s.T)
    expected = ((s.mean(0) - mu_s) ** 2).sum() + np.trace(cov + sigma_s - 2 * scipy.linalg.sqrtm(cov @ sigma_s).real)
    assert numbers["sfid"].value == pytest.approx(expected, rel=1e-5)
    assert numbers["fid"].value > 0
    assert numbers["is"].value > 1  # needs no reference
    for key in ("kid", "precision", "recall", "density", "coverage"):
        assert numbers[key].value is None
        assert "statistics only" in numbers[key].unavailable
    assert any("does not say which extractor" in w for w in result.warnings)
    assert "mu_s" in measured("stats.npz", "after.npz").samples[0].metrics["sfid"].unavailable
    assert result.reference_images is None


def test_statistics_beside_images_are_left_aside_for_another_extractor_than_inception(there) -> None:
    result = measured("openai.npz", "after.npz")
    assert any("are ignored" in w for w in result.warnings)
    plain = measured("ref.npz", "after.npz")
    assert result.samples[0].metrics["fid"].value == plain.samples[0].metrics["fid"].value


def test_kept_features_give_the_same_numbers_without_images(there, tmp_path) -> None:
    kept = tmp_path / "kept.npz"
    first = measured("ref.npz", "after.npz", save=kept)
    again = measured(str(kept), "after.npz")
    assert again.reference_kind == "features"
    alone = measured(str(kept), str(kept), features=None)
    for key in METRICS:
        assert again.samples[0].metrics[key].value == pytest.approx(first.samples[0].metrics[key].value, rel=1e-6), key
    assert alone.samples[0].metrics["fid"].value == pytest.approx(0, abs=1e-7)
    assert alone.samples[0].metrics["is"].value is not None
    assert alone.extractor == first.extractor
    mixed = tmp_path / "mixed.npz"
    np.savez(
        mixed, **{k: v for k, v in np.load(kept).items() if k != "about"}, about=_another(str(np.load(kept)["about"]))
    )
    with pytest.raises(BadInputError, match="one extractor for all"):
        measured(str(mixed), "after.npz")


def _another(about: str) -> np.ndarray:
    return np.array(about.replace(json.loads(about)["extractor"]["sha256"], "0" * 64))


def test_few_images_are_marked_and_too_few_are_missing(there, capsys) -> None:
    numbers = measured("ref.npz", "few.npz").samples[0].metrics
    assert "singular" in numbers["fid"].warning
    assert "3 samples" in numbers["fid"].warning
    assert numbers["fid"].value > 0
    assert "nearest" not in (numbers["kid"].unavailable or "")
    assert "more than 3 samples" in numbers["precision"].unavailable
    with pytest.raises(SystemExit):
        main(["eval", "ref.npz", "few.npz", *FEATURES])
    shown = capsys.readouterr().out
    assert "(!) FID of few.npz: 3 samples for 24 dimensions" in shown
    assert all(number.value is None for number in measured("ref.npz", "one.npz").samples[0].metrics.values())
    assert "singular" in measured("few.npz", "after.npz").samples[0].metrics["fid"].warning
    assert measured("one.npz", "after.npz").samples[0].metrics["fid"].unavailable is not None


def test_grey_against_colour_is_measured_once_all_have_three_channels(there) -> None:
    result = measured("ref.npz", "grey.npz", reading=ReadOptions(channels=3))
    assert any("grey repeated to RGB" in warning for warning in result.warnings)


def test_sizes_that_differ_are_said(there) -> None:
    result = measured("ref.npz", "large.npz", "after.npz")
    assert any("32x32" in w and "resolution" in w for w in result.warnings)
    assert any("differ in size" in w for w in result.warnings)
    assert result.samples[1].metrics["fid"].change_interval is None
    assert measured("ref.npz", "after.npz").warnings == []
