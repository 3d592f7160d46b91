"""What a message says to save is saved, and the set then has the right images and labels."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jboost.engine.errors import BadInputError
from jboost.engine.samples import check_against_model, open_samples


def refusal(path: Path, **arrays: np.ndarray) -> str:
    """The message with which a set of arrays is refused."""
    np.savez(path, **arrays)
    with pytest.raises(BadInputError) as e:
        open_samples(path)
    assert "\n" not in str(e.value)
    return str(e.value)


def followed(message: str, **arrays: np.ndarray) -> np.ndarray:
    """The array that a message says to save."""
    expression = re.search(
        r"save (?:it as plain uint8: |the column.*such as )?(.*?)(?:, which .*| if .*)?$", message
    ).group(1)
    return eval(expression, {"np": np}, arrays)


def one_hot(y: np.ndarray, dtype: type = np.int64) -> np.ndarray:
    return np.eye(5, dtype=dtype)[y]


LABELS = {
    "[N, 1]": lambda y: y[:, None],
    "[N, 1] of 0 and 1, as one-hot is": lambda y: y[:, None] % 2,
    "[N, 1] floats": lambda y: y[:, None].astype(np.float32),
    "[N, 1] in Fortran order": lambda y: np.asfortranarray(y[:, None]),
    "[1, N]": lambda y: y[None],
    "[N, 1, 1]": lambda y: y[:, None, None],
    "one-hot": one_hot,
    "one-hot floats": lambda y: one_hot(y, np.float32),
    "one-hot bools": lambda y: one_hot(y, bool),
    "one-hot in Fortran order": lambda y: np.asfortranarray(one_hot(y)),
    "probabilities": lambda y: np.float32(0.9) * one_hot(y, np.float32) + np.float32(0.02),
    "the class beside other numbers": lambda y: np.stack([y, y + 7], 1),
    "whole floats": lambda y: y.astype(np.float64),
    "digits as text": lambda y: y.astype(str),
    "names": lambda y: np.array(["a cat", "a dog", "bird", "cow", "eel"])[y],
    "bools": lambda y: y % 2 == 1,
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_saved_as_the_message_says_are_the_classes(tmp_path, images, labels, case) -> None:
    given = LABELS[case](labels)
    message = refusal(tmp_path / "a.npz", arr_0=images, arr_1=given)
    np.savez(tmp_path / "b.npz", images, followed(message, arr_1=given))
    right = labels % 2 if case in ("bools", "[N, 1] of 0 and 1, as one-hot is") else labels
    assert open_samples(tmp_path / "b.npz").labels.tolist() == right.tolist()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (np.full((23, 3), 7), "save the column that holds the class"),
        (np.full(23, 1.5), "1.5, which is no class number"),
        (np.full(23, np.nan), "nan, which is no class number"),
        (np.full((22, 5), 0), "22 labels for 23"),
        (np.full((23, 2, 2), 0), "with N = 23"),
    ],
)
def test_numbers_that_are_no_classes_get_no_argmax(tmp_path, images, given, says) -> None:
    message = refusal(tmp_path / "a.npz", arr_0=images, arr_1=given)
    assert says in message
    assert "argmax" not in message
    assert "astype" not in message


IMAGES = {
    "floats in [0, 1]": lambda x: (x / 255).astype(np.float32),
    "halves in [0, 1]": lambda x: (x / 255).astype(np.float16),
    "floats in [-1, 1]": lambda x: (x / 127.5 - 1).astype(np.float32),
    "floats in [-1, 1] that overshoot": lambda x: np.where(x > 200, 1.03, x / 127.5 - 1),
    "floats in [0, 255]": lambda x: x.astype(np.float32) + np.float32(0.2),
    "int64": lambda x: x.astype(np.int64),
    "16 bits": lambda x: x.astype(np.uint16) * np.uint16(257),
    "NCHW": lambda x: x.transpose(0, 3, 1, 2),
    "NCHW floats in [-1, 1]": lambda x: (x / 127.5 - 1).transpose(0, 3, 1, 2),
    "RGBA": lambda x: np.concatenate([x, np.full_like(x[..., :1], 255)], 3),
    "NCHW with alpha": lambda x: np.concatenate([x, np.full_like(x[..., :1], 255)], 3).transpose(0, 3, 1, 2),
    "Fortran order": np.asfortranarray,
    "one image": lambda x: x[0],
    "grey": lambda x: x[..., 0],
    "grey floats in [0, 1]": lambda x: x[..., 0] / 255,
}


@pytest.mark.parametrize("case", IMAGES)
def test_images_saved_as_the_message_says_are_the_images(tmp_path, images, case) -> None:
    given = IMAGES[case](images)
    message = refusal(tmp_path / "a.npz", arr_0=given)
    np.savez(tmp_path / "b.npz", followed(message, arr_0=given))
    samples = open_samples(tmp_path / "b.npz")
    right = images[:1] if case == "one image" else images[..., :1] if case.startswith("grey") else images
    if "overshoot" in case:
        right = np.where(images > 200, 255, images)
    np.testing.assert_array_equal(samples.read(np.arange(samples.shape[0])), right)


def test_labels_that_count_from_1_get_a_remedy_that_is_right_and_others_do_not(images, labels) -> None:
    with pytest.raises(BadInputError, match=r"save labels - 1$"):
        check_against_model(labels + 1, images.shape, num_classes=5, in_channels=3)
    check_against_model(labels, images.shape, num_classes=5, in_channels=3)
    for given in (labels * 2, labels + 2):
        with pytest.raises(BadInputError, match=r"0 to 4$"):
            check_against_model(given, images.shape, num_classes=5, in_channels=3)


def test_wrapped_labels_end_in_one_line_of_our_own(tmp_path, images, labels, bundle, jboost) -> None:
    wrapped = labels.astype(np.uint64)
    wrapped[4] = 2**64 - 1  # -1, as unsigned
    np.savez(tmp_path / "a.npz", images, wrapped)
    done = jboost("boost", "a.npz", "--bundle", bundle, "--engine", "onnx", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "the label 18446744073709551615 (uint64), which int64 cannot hold" in done.stderr


def test_arrays_of_objects_saved_as_the_message_says_are_plain(tmp_path, images, labels) -> None:
    boxed = labels.astype(object)
    message = refusal(tmp_path / "a.npz", arr_0=images, arr_1=boxed)
    expression = re.search(r"np\.array\(arr_1\.tolist\(\)\)", message).group()
    np.savez(tmp_path / "b.npz", images, eval(expression, {"np": np, "arr_1": boxed}))
    assert open_samples(tmp_path / "b.npz").labels.tolist() == labels.tolist()


def test_floats_that_are_normalised_or_not_finite_get_no_wrong_scale(tmp_path, images) -> None:
    assert "undo the normalisation" in refusal(tmp_path / "a.npz", arr_0=(images - 120.0) / 50)
    assert "not finite" in refusal(tmp_path / "a.npz", arr_0=np.where(images > 200, np.nan, 0.5))
