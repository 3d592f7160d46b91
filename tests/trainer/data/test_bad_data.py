"""Bad data is refused in one line that names its path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_cases import (
    SIZE,
    generated,
    save_batches,
    save_folder,
    save_idx,
    save_npz,
    save_png,
)

from jboost.engine.errors import BadInputError
from jboost.trainer.data import check_pair, open_real

# (name of what is bad, words of the message, how it is made below `tmp_path` and opened)

Open = Callable[[Path, np.ndarray, np.ndarray], object]


def _real(path: Path, resolution: int | None = None, channels: int | None = None) -> object:
    return open_real(path, resolution=resolution, channels=channels)


def _change(root: Path, change: Callable[[Path], object], **how: object) -> object:
    change(root)
    return _real(root, **how)


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


NAMES = ("a", "b", "c")
BAD: dict[str, tuple[str, str, Open]] = {
    "nothing there": ("set", "does not exist", lambda p, x, y: _real(p / "set")),
    "empty folder": ("set", "holds no PNG, JPEG, WebP or BMP files", lambda p, x, y: _change(p / "set", Path.mkdir)),
    "class folders without images": (
        "set",
        "holds no PNG, JPEG, WebP or BMP files",
        lambda p, x, y: _change(p / "set", lambda r: (r / "a").mkdir(parents=True)),
    ),
    "no class folders": (
        "set",
        "class folders",
        lambda p, x, y: _change(p / "set", lambda r: save_png(r / "1.png", x[0])),
    ),
    "images beside the class folders": (
        "set",
        "stray.png",
        lambda p, x, y: _change(save_folder(p / "set", x, y, NAMES), lambda r: save_png(r / "stray.png", x[0])),
    ),
    "the folder above": (
        "set",
        "set/train",
        lambda p, x, y: _change(p / "set", lambda r: [save_folder(r / s, x, y, NAMES) for s in ("test", "train")]),
    ),
    "no image": (
        "set/b/1.png",
        "not a readable image",
        lambda p, x, y: _change(
            save_folder(p / "set", x, y, NAMES), lambda r: _written(r / "b" / "1.png", b"<html>not found</html>")
        ),
    ),
    "empty file": (
        "set/b/1.jpg",
        "not a readable image",
        lambda p, x, y: _change(save_folder(p / "set", x, y, NAMES), lambda r: _written(r / "b" / "1.jpg", b"")),
    ),
    "other size": (
        "set/c/z.png",
        "resolution",
        lambda p, x, y: _change(
            save_folder(p / "set", x, y, NAMES), lambda r: save_png(r / "c" / "z.png", x[0, :, :5].copy())
        ),
    ),
    "odd channels": ("a.npz", "2 channels", lambda p, x, y: _real(save_npz(p / "a.npz", x, y), channels=2)),
    "text": ("a.npz", "neither", lambda p, x, y: _real(_written(p / "a.npz", b"images"))),
    "cut npz": (
        "a.npz",
        "copy it again",
        lambda p, x, y: _real(_written(p / "a.npz", save_npz(p / "b.npz", x, y).read_bytes()[:-500])),
    ),
    "npz with a changed byte": (
        "a.npz",
        "damaged",
        lambda p, x, y: _real(
            _written(p / "a.npz", _flip_byte(save_npz(p / "b.npz", x, y, compressed=True).read_bytes()))
        ),
    ),
    "npz without labels": ("a.npz", "no labels", lambda p, x, y: (np.savez(p / "a.npz", x), _real(p / "a.npz"))),
    "npz of floats": ("a.npz", "uint8", lambda p, x, y: _real(save_npz(p / "a.npz", x / 255, y))),
    "npz of objects": (
        "a.npz",
        "never unpickles",
        lambda p, x, y: (np.savez(p / "a.npz", data=x.astype(object), labels=y), _real(p / "a.npz")),
    ),
    "labels from 0 where they count from 1": (
        "set/train_data_batch_1.npz",
        "from 1 to 1000",
        lambda p, x, y: _real(save_batches(p / "set", x, y - 1, 2)),
    ),
    "a batch of another size": (
        "set/train_data_batch_2.npz",
        "another size",
        lambda p, x, y: _change(
            save_batches(p / "set", x, y, 2),
            lambda r: np.savez(r / "train_data_batch_2.npz", data=np.zeros((5, 12), np.uint8), labels=np.ones(5, int)),
        ),
    ),
    "foreign npz among the batches": (
        "set/samples.npz",
        "'data'",
        lambda p, x, y: _change(save_batches(p / "set", x, y, 2), lambda r: save_npz(r / "samples.npz", x, y)),
    ),
    "idx without labels": (
        "set/train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        lambda p, x, y: _change(save_idx(p / "set", x, y), lambda r: (r / "train-labels-idx1-ubyte").unlink()),
    ),
    "idx with too few labels": (
        "set/train-labels-idx1-ubyte",
        "29 labels for 30 images",
        lambda p, x, y: _change(
            save_idx(p / "set", x, y),
            lambda r: _written(r / "train-labels-idx1-ubyte", bytes([0, 0, 8, 1, 0, 0, 0, 29]) + bytes(29)),
        ),
    ),
    "cut idx": (
        "set/train-images-idx3-ubyte",
        "damaged",
        lambda p, x, y: _change(
            save_idx(p / "set", x, y),
            lambda r: _written(
                r / "train-images-idx3-ubyte", (r / "train-images-idx3-ubyte").read_bytes()[: SIZE * 100]
            ),
        ),
    ),
    "cut packed idx": (
        "set/train-images-idx3-ubyte.gz",
        "damaged",
        lambda p, x, y: _change(
            save_idx(p / "set", x, y, packed=True),
            lambda r: _written(
                r / "train-images-idx3-ubyte.gz", (r / "train-images-idx3-ubyte.gz").read_bytes()[:-100]
            ),
        ),
    ),
    "packed idx with a wrong checksum": (
        "set/train-images-idx3-ubyte.gz",
        "damaged",
        lambda p, x, y: _change(
            save_idx(p / "set", x, y, packed=True),
            lambda r: _written(
                r / "train-images-idx3-ubyte.gz", (r / "train-images-idx3-ubyte.gz").read_bytes()[:-8] + bytes(8)
            ),
        ),
    ),
    "generated without labels": (
        "g.npz",
        "no labels",
        lambda p, x, y: (np.savez(p / "g.npz", x), generated(save_npz(p / "a.npz", x, y), p / "g.npz")),
    ),
    "generated PNGs without labels": (
        "g",
        "no labels",
        lambda p, x, y: (save_png(p / "g" / "1.png", x[0]), generated(p / "g")),
    ),
    "generated labels beyond the classes": (
        "g.npz",
        "label 3 of image 0 is out of range: there are 3 classes",
        lambda p, x, y: generated(save_npz(p / "a.npz", x, y), save_npz(p / "g.npz", x, y + 3)),
    ),
    "generated at another resolution": (
        "g.npz",
        "16x16",
        lambda p, x, y: generated(save_npz(p / "g.npz", x, y), resolution=16),
    ),
    "generators that differ": (
        "g.npz",
        "8x4",
        lambda p, x, y: generated(save_npz(p / "a.npz", x, y), save_npz(p / "g.npz", x[:, :4], y)),
    ),
    "a weight of zero": (
        "g.npz",
        "weight",
        lambda p, x, y: generated(save_npz(p / "a.npz", x, y), save_npz(p / "g.npz", x, y), weights=[1.0, 0.0]),
    ),
    "too few weights": (
        "g.npz",
        "2 generated sets",
        lambda p, x, y: generated(save_npz(p / "a.npz", x, y), save_npz(p / "g.npz", x, y), weights=[1.0]),
    ),
    "a pair of two sizes": (
        "g.npz",
        "a.npz of 8x8",
        lambda p, x, y: check_pair(
            _real(save_npz(p / "a.npz", x, y)), generated(save_npz(p / "g.npz", x[:, :4, :4], y)), num_classes=3
        ),
    ),
    "a grey and a coloured set": (
        "g.npz",
        "a.npz of 3",
        lambda p, x, y: check_pair(
            _real(save_npz(p / "a.npz", x, y)), generated(save_npz(p / "g.npz", x[..., :1], y)), num_classes=3
        ),
    ),
    "real labels beyond the classes": (
        "a.npz",
        "out of range",
        lambda p, x, y: check_pair(
            _real(save_npz(p / "a.npz", x, y + 1)), generated(save_npz(p / "g.npz", x, y)), num_classes=3
        ),
    ),
}


def _flip_byte(content: bytes) -> bytes:
    changed = bytearray(content)
    changed[len(changed) // 3] ^= 255
    return bytes(changed)


@pytest.mark.parametrize("case", BAD)
def test_bad_data_is_named_with_its_path(tmp_path: Path, pixels: np.ndarray, targets: np.ndarray, case: str):
    name, words, use = BAD[case]
    with pytest.raises(BadInputError) as caught:
        use(tmp_path, pixels, targets)
    assert str(tmp_path / name) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
