"""Every kind of set is read as it was written, from disk, in little memory."""

from __future__ import annotations

import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_cases import (
    COUNT,
    SIZE,
    everything,
    save_batches,
    save_folder,
    save_idx,
    save_npz,
    save_png,
)
from PIL import Image

from jboost.engine.errors import FailureError
from jboost.trainer.data import count_classes, open_real, storage


@pytest.mark.parametrize("names", [("ant", "bee", "cat"), ("0", "1", "2"), ("2", "10", "7")])
def test_class_folders(tmp_path: Path, pixels: np.ndarray, targets: np.ndarray, names: tuple[str, ...]):
    root = save_folder(tmp_path / "set", pixels, targets, names)
    (root / ".cache").mkdir()
    (root / names[0] / "notes.txt").write_text("not an image")
    (root / names[0] / "._000.png").write_text("what some systems leave behind")
    data = open_real(root, resolution=None, channels=None)
    order = np.argsort([names[t] for t in targets], kind="stable")  # folders come sorted as text
    np.testing.assert_array_equal(everything(data), pixels[order])
    if names[0].isdecimal():
        np.testing.assert_array_equal(data.labels, np.array([int(names[t]) for t in targets])[order])
        assert data.class_names is None
    else:
        np.testing.assert_array_equal(data.labels, targets[order])
        assert data.class_names == names


def test_class_folders_are_searched_to_any_depth_and_in_every_format(tmp_path: Path):
    image = np.full((SIZE, SIZE, 3), 77, np.uint8)
    for k, suffix in enumerate(("png", "jpg", "JPEG", "webp", "bmp")):
        save_png(tmp_path / "cat" / "deep" / f"{k}.{suffix}", image)
    (tmp_path / "dog").mkdir()
    data = open_real(tmp_path, resolution=None, channels=None)
    assert data.shape == (5, SIZE, SIZE, 3)
    np.testing.assert_allclose(everything(data).astype(int), 77, atol=2)
    assert count_classes(data) == 2
    assert any("dog" in note for note in data.notes)


def test_images_are_resized_by_the_shorter_side_and_cropped_around_the_centre(tmp_path: Path):
    # A wide ramp with a white stripe at either end, which the crop removes.
    wide = np.repeat(np.linspace(50, 150, 48)[None, :, None], 24, 0).repeat(3, 2).astype(np.uint8)
    wide[:, :8] = wide[:, -8:] = 255
    save_png(tmp_path / "a" / "wide.png", wide)
    save_png(tmp_path / "a" / "tall.png", wide.transpose(1, 0, 2).copy())
    save_png(tmp_path / "a" / "fits.png", wide[:8, 20:28].copy())
    (tmp_path / "b").mkdir()
    fits, tall, other = everything(open_real(tmp_path, resolution=8, channels=None))
    np.testing.assert_array_equal(fits, wide[:8, 20:28])
    np.testing.assert_array_equal(tall, other.transpose(1, 0, 2))
    expected = np.asarray(Image.fromarray(wide).resize((16, 8), Image.Resampling.BOX))[
        :, 4:12
    ]  # 24 pixels to 8: thirds
    assert other.max() < 160
    np.testing.assert_allclose(other.astype(int), expected.astype(int), atol=8)


@pytest.mark.parametrize("compressed", [False, True])
def test_npz(tmp_path: Path, pixels: np.ndarray, targets: np.ndarray, compressed: bool):
    data = open_real(
        save_npz(tmp_path / "a.npz", pixels, targets, compressed=compressed), resolution=None, channels=None
    )
    np.testing.assert_array_equal(everything(data), pixels)
    np.testing.assert_array_equal(data.labels, targets)
    some = np.array([7, 3, 3, 29])
    np.testing.assert_array_equal(data.read(some), pixels[some])


@pytest.mark.parametrize("compressed", [False, True])
def test_downsampled_imagenet(tmp_path: Path, pixels: np.ndarray, targets: np.ndarray, compressed: bool):
    folder = save_batches(tmp_path / "set", pixels, targets, 11, compressed=compressed)
    data = open_real(folder, resolution=None, channels=None)
    np.testing.assert_array_equal(everything(data), pixels)  # batch 10 after batch 9, and nothing of the validation set
    np.testing.assert_array_equal(data.labels, targets)
    assert any("map_clsloc.txt" in note for note in data.notes)
    shuffled = np.random.default_rng(1).permutation(COUNT)
    np.testing.assert_array_equal(data.read(shuffled), pixels[shuffled])
    one = open_real(folder / "train_data_batch_1.npz", resolution=None, channels=None)
    np.testing.assert_array_equal(everything(one), pixels[:3])


def test_downsampled_imagenet_is_sorted_by_wordnet_id_where_the_list_is_there(
    tmp_path: Path, pixels: np.ndarray, targets: np.ndarray
):
    folder = save_batches(tmp_path / "set", pixels, targets, 2)
    ids = [f"n{number:08}" for number in np.random.default_rng(0).permutation(1000)]
    (folder / "map_clsloc.txt").write_text("".join(f"{name} {k} thing\n" for k, name in enumerate(ids, 1)))
    data = open_real(folder, resolution=None, channels=None)
    assert data.notes == ()
    assert data.class_names == tuple(sorted(ids))
    assert [data.class_names[label] for label in data.labels] == [ids[target] for target in targets]


@pytest.mark.parametrize("packed", [False, True])
def test_idx(tmp_path: Path, pixels: np.ndarray, targets: np.ndarray, packed: bool):
    folder = save_idx(tmp_path / "set", pixels, targets, packed=packed)
    save_idx(folder, pixels[:4], targets[:4], split="t10k", packed=packed)
    data = open_real(folder, resolution=None, channels=None)
    np.testing.assert_array_equal(everything(data), pixels[..., :1])
    np.testing.assert_array_equal(data.labels, targets)
    test = open_real(folder / f"t10k-images-idx3-ubyte{'.gz' * packed}", resolution=None, channels=3)
    np.testing.assert_array_equal(everything(test), pixels[:4, ..., :1].repeat(3, 3))


def test_a_zip_of_pngs_and_a_folder_with_dataset_json(tmp_path: Path, pixels: np.ndarray, targets: np.ndarray):
    folder = tmp_path / "set"
    for i, image in enumerate(pixels):
        save_png(folder / "img" / f"{i:03}.png", image)
    listing = ", ".join(f'["img/{i:03}.png", {t}]' for i, t in enumerate(targets))
    (folder / "dataset.json").write_text(f'{{"labels": [{listing}]}}')
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in folder.rglob("*.*"):
            archive.write(file, file.relative_to(folder))
    for path in (folder, tmp_path / "set.zip"):
        data = open_real(path, resolution=None, channels=None)
        np.testing.assert_array_equal(data.labels, targets)
        np.testing.assert_array_equal(everything(data), pixels)


def test_arrays_are_resized_and_converted_when_asked(tmp_path: Path, targets: np.ndarray):
    flat = np.full((COUNT, 6, 10, 3), (10, 200, 60), np.uint8)
    data = open_real(save_npz(tmp_path / "a.npz", flat, targets), resolution=5, channels=1)
    assert data.shape == (COUNT, 5, 5, 1)
    np.testing.assert_array_equal(everything(data), round(0.299 * 10 + 0.587 * 200 + 0.114 * 60))


# Memory


def _peak_of(use: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        use()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["npz", "packed npz", "batches", "packed batches", "idx", "packed idx"])
def test_memory_does_not_grow_with_the_set(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    """8 MB of images, of which a batch of 16 is read: decompressed ones come from the cache, whose files are mapped."""
    monkeypatch.setenv("JBOOST_CACHE", str(tmp_path / "cache"))
    images = np.tile(np.arange(256, dtype=np.uint8), 32 * 1024).reshape(-1, 32, 32, 1)
    labels = np.arange(len(images)) % 10
    packed = "packed" in kind
    if "npz" in kind:
        path = save_npz(tmp_path / "a.npz", images, labels, compressed=packed)
    elif "batches" in kind:
        images = images.reshape(-1, 32, 32, 1).repeat(3, 3)[: len(images) // 3]
        path = save_batches(tmp_path / "set", images, labels[: len(images)], 2, compressed=packed)
    else:
        path = save_idx(tmp_path / "set", images, labels, packed=packed)
    few = np.arange(0, 16) * 100
    # What a test can afford stands for what is too large for memory.
    monkeypatch.setattr(storage, "IN_MEMORY", 1 << 20)
    # The first time a few buffers of 1 MB, from then on nothing but the labels and the batch.
    assert _peak_of(lambda: open_real(path, resolution=None, channels=None)) < (5_000_000 if packed else 600_000)
    made = sorted((tmp_path / "cache").rglob("*.raw"))
    assert bool(made) == packed
    times = [file.stat().st_mtime_ns for file in made]
    read = []
    peak = _peak_of(lambda: read.append(open_real(path, resolution=None, channels=None).read(few)))
    assert peak < 700_000
    assert [file.stat().st_mtime_ns for file in made] == times
    np.testing.assert_array_equal(read[0], images[few])


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, pixels, targets, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("JBOOST_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(storage, "IN_MEMORY", 0)
    path = save_npz(tmp_path / "a.npz", pixels, targets, compressed=True)
    with pytest.raises(FailureError, match="JBOOST_CACHE"):
        open_real(path, resolution=None, channels=None)
