"""The commands on a set in every format: what they write and print is as for an npz of the same images."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from format_cases import FORMATS, shard, zipped
from PIL import Image

STEP = ("--engine", "onnx", "--device", "cpu", "--steps", "2", "-b", "8")


@pytest.fixture(scope="module")
def boosted(bundle, images, labels, jboost, tmp_path_factory) -> np.ndarray:
    """The images that an npz's run writes."""
    folder = tmp_path_factory.mktemp("npz")
    np.savez(folder / "set.npz", images, labels)
    done = jboost("boost", "set.npz", "--bundle", bundle, *STEP, cwd=folder)
    assert done.returncode == 0, done.stderr
    with np.load(folder / "set.boosted.npz") as data:
        assert (data["arr_0"] != images).any()
        return data["arr_0"]


def pixels_of(path: Path) -> np.ndarray:
    """A set's images, as the program that the format is for reads them."""

    def decoded(files) -> np.ndarray:
        return np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in files])

    if path.suffix == ".npz":
        return np.load(path)["images"]
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".pt":
        return torch.load(path, weights_only=True)["images"].permute(0, 2, 3, 1).numpy()
    if path.suffix == ".parquet":
        return decoded(cell["bytes"] for cell in pq.read_table(path)["image"].to_pylist())
    if path.suffix == ".tar":
        return decoded(sample["png"] for sample in webdataset.WebDataset(str(path), shardshuffle=False))
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return decoded(archive.read(name) for name in sorted(archive.namelist()) if name.endswith(".png"))
    return decoded(file.read_bytes() for file in sorted(path.glob("*.png")))


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "npy"])
def test_boost_writes_the_images_that_an_npz_gets(tmp_path, images, labels, bundle, boosted, jboost, kind) -> None:
    path = FORMATS[kind](tmp_path, images, labels)
    done = jboost("boost", path, "--bundle", bundle, *STEP, "--json", "s.json", "--grid", "g.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "5 classes, labels from " in done.stderr
    out = path.with_name("set_boosted" if kind == "folder" else f"set.boosted{path.suffix}")
    np.testing.assert_array_equal(pixels_of(out), boosted)
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["labels"], summary["lossy"]) == ("given", None)
    assert (tmp_path / "g.png").exists()


def test_boost_without_labels_says_so(tmp_path, images, labels, bundle, jboost) -> None:
    path = FORMATS["npy"](tmp_path, images, labels)
    done = jboost("boost", path, "--bundle", bundle, *STEP, "-o", "out.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no labels (an npy file holds no labels" in done.stderr
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["image"]


@pytest.mark.parametrize("kind", FORMATS)
def test_inspect_tells_a_set_from_a_checkpoint(tmp_path, images, labels, jboost, kind) -> None:
    done = jboost("inspect", FORMATS[kind](tmp_path, images, labels), "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["kind"], facts["layout"], facts["images"], facts["height"]) == ("samples", kind, 23, 16)
    if kind != "npy":
        assert sorted(facts["labels"].values()) == [4, 4, 5, 5, 5]


def test_a_question_is_answered_by_its_option(tmp_path, images, labels, bundle, jboost) -> None:
    np.savez(tmp_path / "a.npz", images=images, samples=images[::-1], y=labels)
    command = (
        "boost",
        "a.npz",
        "--bundle",
        bundle,
        "--engine",
        "onnx",
        "--steps",
        "0",
        "-o",
        "out.parquet",
        "--grid",
        "g.png",
    )
    done = jboost(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert "several candidates for the images (images, samples)" in done.stderr
    done = jboost(*command, "--images-key", "samples", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(pixels_of(tmp_path / "out.parquet"), images[::-1])


@pytest.mark.parametrize("lossy", [False, True])
def test_jpegs_stay_jpegs_only_if_asked(tmp_path, images, labels, bundle, jboost, lossy) -> None:
    zipped(tmp_path, images, labels, "JPEG")
    option = ("--lossy", "--run", "run.npz") if lossy else ()
    done = jboost(
        "boost",
        "set.zip",
        "--bundle",
        bundle,
        "--engine",
        "onnx",
        "--steps",
        "0",
        "--json",
        "s.json",
        *option,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "s.json").read_text())
    names = zipfile.ZipFile(tmp_path / "set.boosted.zip").namelist()
    if not lossy:
        assert (
            "23 images are written to set.boosted.zip as PNG in place of .jpg (first: 000.jpg); --lossy keeps JPEGs"
            in done.stderr
        )
        assert names[0] == "000.png"
        with zipfile.ZipFile(tmp_path / "set.zip") as old, zipfile.ZipFile(tmp_path / "set.boosted.zip") as new:
            for name in ("000", "007"):
                before, after = (Image.open(io.BytesIO(z.read(name + s))) for z, s in ((old, ".jpg"), (new, ".png")))
                np.testing.assert_array_equal(np.asarray(after), np.asarray(before))
        return
    assert summary["lossy"] == "JPEG, quality 95, 4:4:4"
    assert "JPEG, quality 95" in done.stdout
    assert names[0] == "000.jpg"
    done = jboost("report", "run.npz", cwd=tmp_path)
    assert done.returncode == 2
    assert "boost again without --lossy" in done.stderr


def test_eval_and_report_take_any_format(tmp_path, images, labels, bundle, jboost) -> None:
    (tmp_path / "own.py").write_text("import torch\ndef make():\n    return lambda x: x.flatten(1)[:, :8]\n")
    np.savez(tmp_path / "ref.npz", images[::-1], labels)
    paths = [FORMATS[kind](tmp_path, images, labels).name for kind in ("npy", "pt", "parquet", "webdataset", "zip")]
    done = jboost(
        "eval", "ref.npz", *paths, "--features", "own:make", "--trust-code", "--metrics", "kid,precision", "--json", "e.json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "e.json").read_text())
    values = [[entry["metrics"][m]["value"] for m in ("kid", "precision")] for entry in found["samples"]]
    assert values == [values[0]] * len(paths)
    shard(tmp_path, images, labels, "JPEG")
    done = jboost("boost", "set.tar", "--bundle", bundle, *STEP, "--run", "run.npz", "-o", "out.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = jboost("report", "run.npz", "-o", "page.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_key_that_only_one_of_several_sets_has(tmp_path, images, labels, bundle, jboost) -> None:
    (tmp_path / "own.py").write_text("def make():\n    return lambda x: x.flatten(1)[:, :8]\n")
    own = ("--features", "own:make", "--trust-code", "--metrics", "kid")
    np.savez(tmp_path / "ref.npz", images[::-1], labels)
    np.savez(tmp_path / "a.npz", images=images, samples=images, y=labels)
    run = ("--images-key", "samples", "--run", "run.npz", "--snapshots", "1")
    done = jboost("boost", "a.npz", "--bundle", bundle, *STEP, *run, "-o", "out.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = jboost("report", "run.npz", "-o", "page.html", "--ref", "ref.npz", *own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is not measured" not in (tmp_path / "page.html").read_text()
    sets = ("ref.npz", "a.npz", "out.parquet")
    done = jboost("eval", *sets, *own, "--images-key", "samples", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ref.npz has no samples for --images-key (it has arr_0, arr_1); it is read by the usual names" in done.stdout
    done = jboost("eval", "ref.npz", "out.parquet", *own, "--images-key", "sample", cwd=tmp_path)
    assert done.returncode == 2
    assert "ref.npz has no sample for --images-key" in done.stderr
