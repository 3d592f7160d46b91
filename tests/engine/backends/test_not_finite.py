"""A network that gives NaN for some images: every engine leaves the same images as they were, and no number of the run is NaN."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import jboost
from jboost.engine.method.updates import MOVES
from jboost.engine.results.run_file import read_run
from jboost.export.bundle import export_bundle

CLASSES, SIZE = 5, 16
ENGINES = ("eager", "compile", "onnx")
FLAT = [2, 6]  # images of one colour


class Standardising(nn.Module):
    """Each image is divided by its own deviation, as many published networks do: 0/0 for an image of one colour."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.more = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True)
        return 5 * self.fc(torch.relu(self.more(torch.relu(self.conv(x)))).mean((2, 3)))


def standardising(num_classes: int) -> nn.Module:
    return Standardising()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("not_finite")
    torch.manual_seed(0)
    torch.save(Standardising().state_dict(), folder / "net.pt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "standardising_net", sys.modules[__name__])
        for update_kind in MOVES.keys() - {"pgd-l2"}:  # one compiled step, to save time
            patch.delitem(MOVES, update_kind)
        export_bundle(
            folder / "net.pt", folder / "bundle", arch="standardising_net:standardising", num_classes=CLASSES, batch_size=8,
            normalization="none", resolutions=(SIZE,), objectives=("bce",), formats=("onnx", "compile"),
        )  # fmt: skip
    return folder / "bundle"


@pytest.fixture(scope="module")
def spoilt() -> np.ndarray:
    """uint8 [9, 16, 16, 3]; those of `FLAT` are of one colour."""
    images = np.random.default_rng(0).integers(0, 256, (9, SIZE, SIZE, 3), dtype=np.uint8)
    images[FLAT] = [[[[0, 0, 0]]], [[[255, 255, 255]]]]  # sums of these are exact in float32
    return images


@pytest.mark.parametrize(
    "update", [jboost.PGD(4, 0.5), jboost.PGD(4, 0.02, norm="linf"), jboost.SGLD(4, 0.5, noise=0.0)]
)
@pytest.mark.parametrize("early_stop", [False, True])
def test_all_engines_leave_the_same_images_as_they_were(bundle, spoilt, update, early_stop) -> None:
    labels, fine = np.arange(len(spoilt)) % CLASSES, np.delete(np.arange(len(spoilt)), FLAT)
    runs = []
    for engine in ENGINES if update.kind == "pgd-l2" else ("eager", "onnx"):
        with jboost.load(bundle, engine=engine, device="cpu") as b:
            runs.append(
                b.boost(spoilt, labels, update, l0=3.0, objective="bce", early_stop=early_stop, snapshots=(1, 4))
            )
            alone = b.boost(spoilt[fine], labels[fine], update, l0=3.0, objective="bce", early_stop=early_stop)
        s, records = runs[-1].summary, runs[-1].records
        assert np.flatnonzero(records["failed"]).tolist() == FLAT, engine
        assert (records["steps"][FLAT] == 0).all()
        for images in (runs[-1].images, *runs[-1].snapshots.values()):
            np.testing.assert_array_equal(images[FLAT], spoilt[FLAT])
        # The others move as they do without these neighbours, and the means are theirs.
        assert np.abs(runs[-1].images[fine].astype(int) - alone.images).max() <= 1
        assert s.realness_before == pytest.approx(alone.summary.realness_before, rel=1e-5)
        assert s.realness_after == pytest.approx(alone.summary.realness_after, rel=1e-3)
        assert s.realness_after > s.realness_before
        assert s.accuracy_before == alone.summary.accuracy_before
        assert (s.unchanged_after_failure, s.not_finite, s.not_finite_at) == (2, 0, FLAT)
        assert np.isfinite([taken["realness"] for taken in s.snapshots]).all()
        json.dumps(s.to_dict(), allow_nan=False)
    for other in runs[1:]:
        np.testing.assert_array_equal(other.records["stopped"], runs[0].records["stopped"])
        assert np.abs(other.images.astype(int) - runs[0].images).max() <= 1


def strict_json(text: str):
    def constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=constant)


@pytest.mark.parametrize("engine", ["onnx", "compile"])
def test_the_command_names_them_and_writes_json_that_is_json(bundle, spoilt, jboost, tmp_path, engine) -> None:
    np.savez(tmp_path / "some.npz", spoilt, np.arange(9) % CLASSES)
    out, run = tmp_path / "out.npz", tmp_path / "run.npz"
    done = jboost(
        "boost", tmp_path / "some.npz", "-o", out, "--bundle", bundle, "--engine", engine, "--objective", "bce", "--json", "-",
        "--run", run, "--steps", 2, "--step-size", 0.5,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = " ".join(done.stderr.split())
    assert "left unchanged 2 (gradient or logit not finite)" in shown
    assert "not in the means image 2, 6 (counted from 0)" in shown
    summary = strict_json(done.stdout)
    assert summary["not_finite_at"] == FLAT
    assert summary["realness_before"] > 0
    read = read_run(run)
    assert read.summary["not_finite_at"] == FLAT
    assert jboost("report", run, "-o", tmp_path / "report.html").returncode == 0


def test_a_run_in_which_every_image_fails_is_a_failure(bundle, spoilt, jboost, tmp_path) -> None:
    np.savez(tmp_path / "flat.npz", spoilt[FLAT], np.arange(2))
    done = jboost(
        "boost",
        tmp_path / "flat.npz",
        "--bundle",
        bundle,
        "--engine",
        "onnx",
        "--objective",
        "bce",
        "--json",
        "-",
        "--steps",
        2,
    )
    assert done.returncode == 1
    assert "no image was boosted: every gradient or logit is not finite" in done.stderr.splitlines()[-1]
    summary = strict_json(done.stdout)
    assert (summary["realness_before"], summary["realness_after"], summary["unchanged_after_failure"]) == (
        None,
        None,
        2,
    )
    with np.load(tmp_path / "flat.boosted.npz") as written:
        np.testing.assert_array_equal(written["arr_0"], spoilt[FLAT])
