"""Other people's folders and archives through the real command: the right images, the right classes, and what is said of them."""

from __future__ import annotations

import json
import os
import zipfile

import numpy as np
import pytest
from image_cases import png, saved, write_tree
from PIL import Image

from jboost.engine.errors import BadInputError
from jboost.engine.samples import open_samples
from jboost.export.checkpoints.load import load_checkpoint
from jboost.export.l0 import mean_realness

STEPS = ("--engine", "onnx", "--device", "cpu", "--steps", "2")


@pytest.fixture
def boosted(jboost, bundle, tmp_path):
    """Boosts a set into an npz and gives the images, their labels and what was said."""

    def run(samples, *options):
        done = jboost("boost", samples, "-o", tmp_path / "out.npz", "--bundle", bundle, *STEPS, *options)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / "out.npz") as out:
            found = out["arr_0"], out["arr_1"] if "arr_1" in out.files else None
        (tmp_path / "out.npz").unlink()
        return *found, done.stderr

    return run


@pytest.fixture
def expected(bundle, images):
    """What boosting arrays gives."""
    import jboost

    def run(images, labels):
        with jboost.load(bundle, engine="onnx", device="cpu") as booster:
            return booster.boost(images, labels, jboost.PGD(steps=2)).images

    return run


def test_an_edm_zip_without_labels_is_boosted_without_labels(boosted, expected, images, tmp_path) -> None:
    """Its folders 00000, 00001, ... hold a thousand images each; taken for classes, nearly every result would differ."""
    names = [f"{i // 10:05d}/img{i * 100:08d}.png" for i in range(len(images))]
    files = {name: png(image) for name, image in zip(names, images, strict=True)}
    right = expected(images, None)
    wrong = expected(images, np.arange(len(images)) // 10)
    assert (right != wrong).any((1, 2, 3)).mean() > 0.5
    for given in ({"dataset.json": b'{"labels": null}'}, {}):
        out, labels, said = boosted(write_tree(tmp_path / "edm.zip", files | given))
        np.testing.assert_array_equal(out, right)
        assert labels is None
        assert f"{tmp_path}/edm.zip: no labels (" in said


def test_class_folders_of_a_windows_zip_and_of_links_are_classes(boosted, expected, images, labels, tmp_path) -> None:
    order = np.argsort(labels, kind="stable")
    right = expected(images[order], labels[order])
    windows = {f"{labels[i]}\\{i:03d}.png": png(images[i]) for i in order}
    out, found, said = boosted(write_tree(tmp_path / "windows.zip", windows))
    np.testing.assert_array_equal(out, right)
    np.testing.assert_array_equal(found, labels[order])
    assert "5 classes, labels from the folders 0, 1, 2, 3, 4" in said
    write_tree(tmp_path / "elsewhere", {name.replace("\\", "/"): data for name, data in windows.items()})
    (tmp_path / "linked").mkdir()
    for c in range(5):
        os.symlink(tmp_path / "elsewhere" / str(c), tmp_path / "linked" / str(c))
    write_tree(tmp_path / "linked", {".ipynb_checkpoints/a.png": png(images[0]), "__MACOSX/._a.png": b"junk"})
    out, found, _ = boosted(tmp_path / "linked")
    np.testing.assert_array_equal(out, right)
    np.testing.assert_array_equal(found, labels[order])


def test_names_that_the_model_does_not_know_are_its_classes_in_order_and_that_is_said(
    boosted, expected, images, labels, tmp_path
) -> None:
    names = ("ant", "bee", "cow", "dog", "eel")
    files = {f"{names[c]}/{i:03d}.png": png(images[i]) for i, c in enumerate(labels)}
    order = np.argsort(labels, kind="stable")
    out, _, said = boosted(write_tree(tmp_path / "named.tar.gz", files))
    np.testing.assert_array_equal(out, expected(images[order], labels[order]))
    assert "assumed: the model's classes are these names in sorted order (0 ant, 1 bee, 2 cow, ...)" in said


def test_conversions_are_said_and_are_right(boosted, expected, images, tmp_path, jboost, bundle) -> None:
    deep = images[0].astype(int) * 257
    clear = np.concatenate([images[1], np.full((16, 16, 1), 128, np.uint8)], -1)
    files = {
        "0.png": png(deep, bits=16),
        "1.png": png(clear),
        "2.png": png(images[2, ..., :1]),
        "3.png": png(np.kron(images[3], np.ones((2, 2, 1), np.uint8))),
    }
    path = write_tree(tmp_path / "set", files)
    command = ("boost", path, "-o", tmp_path / "no.npz", "--bundle", bundle, *STEPS)
    for options, remedy in (((), "--background white"), (("--background", "white"), "--resize N")):
        refused = jboost(*command, *options)
        assert refused.returncode == 2
        assert refused.stderr.count("\n") == 1
        assert remedy in refused.stderr
    out, _, said = boosted(path, "--background", "#0a141e", "--resize", 16, "--grid", tmp_path / "g.png")
    over = np.rint(images[1] * (128 / 255) + np.array([10, 20, 30]) * (1 - 128 / 255)).astype(np.uint8)
    given = np.stack([images[0], over, images[2, ..., :1].repeat(3, 2), images[3]])
    np.testing.assert_array_equal(out, expected(given, None))
    for line in (
        "1 image: 16 bits scaled to 8 bits (0.png)",
        "1 image: transparent pixels laid over #0a141e (1.png)",
        "1 image: grey repeated to RGB (2.png)",
        "1 image: resized to 16x16 (as ADM's center_crop_arr",
    ):
        assert f"{path}: {line}" in said


def test_a_report_reads_the_samples_as_the_run_did(jboost, bundle, images, tmp_path) -> None:
    big = np.kron(images[:4, ..., :1], np.ones((1, 2, 2, 1), np.uint8))
    write_tree(tmp_path / "set", {f"{i}.png": png(image) for i, image in enumerate(big)})
    run = ("set", "-o", "out.zip", "--bundle", bundle, *STEPS, "--run", "run.npz", "--resize", 16)
    done = jboost("boost", *run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = jboost("report", "run.npz", "-o", "report.html", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert jboost("report", "run.npz", "-o", "report.html", "--resize", 8, cwd=tmp_path).returncode == 2


def test_l0_is_the_same_from_any_container(checkpoint, images, labels, tmp_path) -> None:
    loaded = load_checkpoint(checkpoint)
    np.savez(tmp_path / "real.npz", images, labels)
    windows = {f"{c}\\{i:03d}.png": png(images[i]) for i, c in enumerate(labels)}
    names = [f"{i // 10:05d}/img{i * 100:08d}.png" for i in range(len(images))]
    edm = {name: png(image) for name, image in zip(names, images, strict=True)}
    listed = json.dumps({"labels": [[name, int(c)] for name, c in zip(names, labels, strict=True)]}).encode()
    paths = [
        tmp_path / "real.npz",
        write_tree(tmp_path / "windows.zip", windows),
        write_tree(tmp_path / "edm.tar", edm | {"dataset.json": listed}),
    ]
    found = [mean_realness(loaded.model, open_samples(path), num_classes=5, in_channels=3) for path in paths]
    assert found == pytest.approx([found[0]] * 3, rel=1e-5)
    unlabelled = open_samples(write_tree(tmp_path / "edm.zip", edm | {"dataset.json": b'{"labels": null}'}))
    with pytest.raises(BadInputError, match='says "labels": null'):
        mean_realness(loaded.model, unlabelled, num_classes=5, in_channels=3)


def test_an_unprocessed_image_is_never_in_the_output(jboost, bundle, images, tmp_path) -> None:
    files = {
        "a.png": png(images[0]),
        "b.jpg": saved(images[1], "JPEG"),
        "c.tif": saved(images[2], "TIFF"),
        "n.txt": b"x",
    }
    path = write_tree(tmp_path / "set.zip", files)
    done = jboost("boost", path, "--bundle", bundle, *STEPS)
    assert done.returncode == 0, done.stderr
    assert "1 image of kinds that are not read (.tif; first: c.tif) left out" in done.stderr
    with zipfile.ZipFile(tmp_path / "set.boosted.zip") as archive:
        assert sorted(archive.namelist()) == ["a.png", "b.png", "n.txt"]
        for name in ("a.png", "b.png"):
            assert Image.open(archive.open(name)).format == "PNG"


def test_inspect_export_and_train_say_where_labels_come_from(jboost, checkpoint, images, tmp_path) -> None:
    lone = write_tree(tmp_path / "lone", {f"7/{i}.png": png(image) for i, image in enumerate(images[:4])})
    facts = json.loads(jboost("inspect", lone, "--json").stdout)
    assert facts["labels"] is None
    assert facts["labels from"] == "none: a single folder (7) is no evidence of a class"
    facts = json.loads(jboost("inspect", lone, "--json", "--class-folders", "top").stdout)
    assert facts["labels"] == {"7": 4}
    two = write_tree(tmp_path / "two", {f"{i % 2}/{i}.png": png(image) for i, image in enumerate(images[:4])})
    refused = jboost("export", "--ckpt", checkpoint, "-o", tmp_path / "b", "--real", lone, "--format", "none")
    assert refused.returncode == 2
    assert "no class numbers (a single folder (7) is no evidence of a class)" in refused.stderr
    other = write_tree(tmp_path / "other", {f"{i % 2}/{i}.png": png(image) for i, image in enumerate(images[:4:2])})
    write_tree(other, {"1/a.png": png(images[0])})
    write_tree(two, {"2/a.png": png(images[0])})
    refused = jboost("train", "--real", two, "--generated", other, "-o", tmp_path / "run")
    assert refused.returncode == 2
    assert f"{two}: 3 classes, labels from the folders 0, 1, 2" in refused.stderr
    assert f"{other} has no generated images of class 2; each class needs both" in refused.stderr
