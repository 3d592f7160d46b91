"""Which array holds the images and which the labels: told by name, or asked."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from format_cases import image_bytes

from jboost.engine.errors import BadInputError
from jboost.engine.samples import open_samples
from jboost.engine.samples.npz import NpzSamples
from jboost.engine.samples.options import ReadOptions
from jboost.trainer.data.generated import open_generated


def write_shard(path: Path, members: list[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    "names", [("arr_0", "arr_1"), ("images", "labels"), ("samples", "y"), ("x", "y"), ("arr_0", "labels")]
)
def test_the_usual_names_are_recognised(tmp_path, images, labels, names) -> None:
    np.savez(tmp_path / "a.npz", **dict(zip(names, (images, labels), strict=True)), prompts=np.array(["a", "b"]))
    samples = open_samples(tmp_path / "a.npz")
    np.testing.assert_array_equal(samples.read(np.arange(23)), images)
    assert samples.labels.tolist() == labels.tolist()
    assert samples.label_source == names[1]


def test_several_candidates_are_a_question_that_the_keys_answer(tmp_path, images, labels) -> None:
    other = images[::-1]
    np.savez(tmp_path / "a.npz", images=images, samples=other, labels=labels, y=labels[::-1])
    with pytest.raises(BadInputError, match=r"images \(images, samples\); choose with --images-key images"):
        open_samples(tmp_path / "a.npz")
    with pytest.raises(BadInputError, match=r"labels \(labels, y\); choose with --labels-key labels"):
        NpzSamples(tmp_path / "a.npz", ReadOptions(images_key="samples"))
    chosen = NpzSamples(tmp_path / "a.npz", ReadOptions(images_key="samples", labels_key="y"))
    np.testing.assert_array_equal(chosen.read(np.arange(23)), other)
    assert chosen.labels.tolist() == labels[::-1].tolist()
    first = NpzSamples(tmp_path / "a.npz", ReadOptions(images_key="images", labels_key="y"))
    assert first.fingerprint != chosen.fingerprint
    assert NpzSamples(tmp_path / "a.npz", ReadOptions(images_key="images", labels_key="none")).labels is None


def test_an_array_of_another_shape_is_no_candidate(tmp_path, images, labels) -> None:
    np.savez(tmp_path / "a.npz", images, labels, x=np.arange(3.0))
    samples = open_samples(tmp_path / "a.npz")
    assert samples.images_key == "arr_0"


def test_other_names_need_a_key_and_a_wrong_key_names_the_arrays(tmp_path, images, labels) -> None:
    np.savez(tmp_path / "a.npz", pixels=images, classes=labels)
    with pytest.raises(BadInputError, match="--images-key pixels"):
        open_samples(tmp_path / "a.npz")
    samples = NpzSamples(tmp_path / "a.npz", ReadOptions(images_key="pixels", labels_key="classes"))
    assert samples.labels.tolist() == labels.tolist()
    with pytest.raises(BadInputError, match=r"no pixel for --images-key \(it has pixels, classes\)"):
        NpzSamples(tmp_path / "a.npz", ReadOptions(images_key="pixel"))


def test_where_there_is_no_option_no_message_names_one(tmp_path, images, labels) -> None:
    np.savez(tmp_path / "a.npz", images=images, samples=images, labels=labels)
    np.savez(tmp_path / "b.npz", pixels=images)
    write_shard(tmp_path / "c.tar", [("a.png", image_bytes(images[0])), ("a.cls", b"cat")])
    for name in ("a.npz", "b.npz", "c.tar"):
        with pytest.raises(BadInputError) as e:
            open_generated([tmp_path / name], None, num_classes=5, resolution=16, channels=3)
        assert "-key" not in str(e.value)


@pytest.mark.parametrize("options", [ReadOptions(images_key="png"), ReadOptions(labels_key="none")])
def test_image_files_have_no_keys(tmp_path, images, options) -> None:
    (tmp_path / "a.png").write_bytes(image_bytes(images[0]))
    with pytest.raises(BadInputError, match="leave --images-key and --labels-key out"):
        open_samples(tmp_path, options)
