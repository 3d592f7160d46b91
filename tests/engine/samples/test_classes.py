"""Which class an image belongs to: a folder's name counts where something shows that it is a class, for every command alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from image_cases import saved, write_tree

from jboost.engine.errors import BadInputError
from jboost.engine.samples import ReadOptions, open_samples
from jboost.trainer.data import open_real

KINDS = ["set", "set.zip", "set.tar", "set.tar.gz"]


def picture(i: int) -> bytes:
    return saved(np.full((4, 4, 3), i, np.uint8))


def tree(names: list[str], extra: dict[str, bytes] | None = None) -> dict[str, bytes]:
    return {name: picture(i) for i, name in enumerate(names)} | (extra or {})


def edm(count: int, step: int = 1) -> list[str]:
    """The names that EDM's dataset_tool.py gives."""
    return [f"{i // 1000:05d}/img{i:08d}.png" for i in range(0, count * step, step)]


def labels_in(path: Path, **options) -> list[int] | None:
    labels = open_samples(path, ReadOptions(**options)).labels
    return None if labels is None else labels.tolist()


NO_CLASSES = {
    "flat": ["a.png", "b.png"],
    "a lone numbered folder": ["7/a.png", "7/b.png"],
    "a lone named folder": ["cats/a.png", "cats/b.png"],
    "folders around everything": ["out/samples/3/a.png", "out/samples/3/b.png"],
    "EDM's dataset_tool": edm(25, 100),
    "EDM's generate --subdirs": [f"{i // 1000 * 1000:06d}/{i:06d}.png" for i in range(0, 3000, 500)],
    "EDM's folders in a folder": [f"cifar/{name}" for name in edm(25, 100)],
    "a numbered folder beside one without images": ["7/a.png", "logs/b.txt"],
}
CLASSES = {
    "numbers": (["3/a.png", "10/a.png", "3/b.png"], [10, 3, 3], None),
    "names and what Jupyter leaves behind": (
        [".ipynb_checkpoints/a.png", "ant/a.png", "bee/b.png"],
        [0, 1],
        ("ant", "bee"),
    ),
    "numbers in a folder": (["set/3/a.png", "set/10/a.png"], [10, 3], None),
    "names": (["tench/a.png", "goldfish/a.png"], [0, 1], ("goldfish", "tench")),
    "names and shards below": (
        [f"{c}/{name}" for c in ("a", "b") for name in edm(3, 1000)],
        [0] * 3 + [1] * 3,
        ("a", "b"),
    ),
    "one folder of images in each class": (["n01/images/a.png", "n02/images/b.png"], [0, 1], ("n01", "n02")),
    "deeper in one class": (["a/x.png", "a/deep/y.png", "b/z.png"], [0, 0, 1], ("a", "b")),
    "what systems leave behind": (
        [".ipynb_checkpoints/a.png", "__MACOSX/0/._a.png", "0/a.png", "0/._a.png", "1/.hidden/b.png", "1/b.png"],
        [0, 1],
        None,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", NO_CLASSES)
def test_folders_without_evidence_are_no_classes(tmp_path, case, kind) -> None:
    files = {name: picture(0) if name.endswith(".png") else b"text" for name in NO_CLASSES[case]}
    path = write_tree(tmp_path / kind, files)
    samples = open_samples(path)
    assert samples.labels is None
    assert samples.label_source.startswith("none: ")
    with pytest.raises(BadInputError, match="no labels"):
        open_real(path, resolution=None, channels=None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CLASSES)
def test_two_folders_or_more_are_classes_for_every_reader(tmp_path, case, kind) -> None:
    names, expected, class_names = CLASSES[case]
    path = write_tree(tmp_path / kind, tree(names))
    samples = open_samples(path)
    assert samples.labels.tolist() == expected
    assert samples.label_names == class_names
    assert samples.label_source.startswith("the folders ")
    real = open_real(path, resolution=None, channels=None)
    assert real.labels.tolist() == expected
    assert real.class_names == class_names
    everything = np.arange(len(expected))
    np.testing.assert_array_equal(real.read(everything), samples.read(everything))


def test_dataset_json_comes_first_and_its_null_says_that_there_are_no_classes(tmp_path) -> None:
    names = edm(5, 1000)
    null = {"dataset.json": b'{"labels": null}'}
    assert labels_in(write_tree(tmp_path / "null.zip", tree(names, null))) is None
    assert labels_in(write_tree(tmp_path / "numbers.zip", tree(["0/a.png", "1/a.png"], null))) is None
    listed = json.dumps({"labels": [[name, 4 - i] for i, name in enumerate(names)]}).encode()
    assert labels_in(write_tree(tmp_path / "listed.zip", tree(names, {"dataset.json": listed}))) == [4, 3, 2, 1, 0]
    # In a zip of a folder, as a desktop's "Compress" makes it.
    around = {f"set/{name}": data for name, data in tree(names, {"dataset.json": listed}).items()}
    assert labels_in(write_tree(tmp_path / "around.zip", around)) == [4, 3, 2, 1, 0]
    # A file of that name without labels says nothing.
    other = {"dataset.json": b'{"name": "mine"}'}
    assert labels_in(write_tree(tmp_path / "other.zip", tree(["0/a.png", "1/a.png"], other))) == [0, 1]


def test_the_user_may_say_which_folders_are_classes(tmp_path) -> None:
    alone = write_tree(tmp_path / "alone", tree(["7/a.png", "7/b.png"]))
    assert labels_in(alone, class_folders="top") == labels_in(alone, class_folders="last") == [7, 7]
    numbers = write_tree(tmp_path / "numbers", tree(["0/a.png", "1/b.png"]))
    assert labels_in(numbers, class_folders="none") is None
    assert labels_in(write_tree(tmp_path / "edm", tree(edm(3, 1000))), class_folders="top") == [0, 1, 2]
    stray = write_tree(tmp_path / "stray", tree(["a.png", "1/b.png", "2/b.png"]))
    with pytest.raises(BadInputError, match="--class-folders none"):
        open_samples(stray)
    assert labels_in(stray, class_folders="none") is None


def test_two_likely_readings_are_refused_until_the_user_says_which(tmp_path) -> None:
    path = write_tree(tmp_path / "set", tree(["run1/0/a.png", "run1/1/a.png", "run2/0/b.png", "run2/1/b.png"]))
    with pytest.raises(BadInputError, match=r"--class-folders top .*, last or none"):
        open_samples(path)
    assert labels_in(path, class_folders="last") == [0, 1, 0, 1]
    assert labels_in(path, class_folders="top") == [0, 0, 1, 1]
    splits = write_tree(tmp_path / "splits", tree(["train/0/a.png", "train/1/a.png", "val/0/b.png"]))
    with pytest.raises(BadInputError, match=r"splits, not classes; give one of them, such as .*/splits/train"):
        open_samples(splits)
    assert labels_in(splits / "train") == [0, 1]


def test_labels_change_what_a_set_is(tmp_path) -> None:
    """A run must not go on where the same images had other labels, or were read in another way."""
    path = write_tree(tmp_path / "set", tree(["0/a.png", "1/a.png"]))
    prints = {
        open_samples(path, ReadOptions(**how)).fingerprint
        for how in ({}, {"class_folders": "none"}, {"resize": 2}, {"background": (0, 0, 0)})
    }
    assert len(prints) == 4
