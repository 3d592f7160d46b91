"""Training data: every kind of set is read as it was written, from disk; the order is a function of seed and position; bad data
is refused with its path."""

from __future__ import annotations

import gzip
import threading
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jboost.engine.errors import BadInputError, FailureError
from jboost.trainer.data import (
    Augmentation,
    BatchReader,
    EpochOrder,
    MixedData,
    MixedOrder,
    check_pair,
    count_classes,
    decode_all,
    hold_out,
    open_generated,
    open_real,
    storage,
    to_tensor,
)

SIZE, COUNT, CLASSES = 8, 30, 3


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def targets() -> np.ndarray:
    return np.arange(COUNT, dtype=np.int64) % CLASSES


def save_png(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)


def save_folder(root: Path, images: np.ndarray, labels: np.ndarray, names: tuple[str, ...]) -> Path:
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        save_png(root / names[label] / f"{i:03}.png", image)
    return root


def save_npz(path: Path, images: np.ndarray, labels: np.ndarray, *, compressed: bool = False) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, images, labels)
    return path


def save_batches(folder: Path, images: np.ndarray, labels: np.ndarray, parts: int, *, compressed: bool = False) -> Path:
    """In downsampled ImageNet's layout."""
    folder.mkdir()
    flat = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    save = np.savez_compressed if compressed else np.savez
    batches = zip(np.array_split(flat, parts), np.array_split(labels + 1, parts), strict=True)
    for k, (data, own) in enumerate(batches, 1):
        save(folder / f"train_data_batch_{k}.npz", data=data, labels=own, mean=flat.mean(0))
    save(folder / "val_data.npz", data=flat[:2], labels=labels[:2] + 1)
    return folder


def save_idx(
    folder: Path, images: np.ndarray, labels: np.ndarray, *, split: str = "train", packed: bool = False
) -> Path:
    folder.mkdir(exist_ok=True)
    for kind, array in (("images-idx3-ubyte", images[..., 0]), ("labels-idx1-ubyte", labels.astype(np.uint8))):
        sizes = np.array(array.shape, ">u4").tobytes()
        content = bytes([0, 0, 8, array.ndim]) + sizes + np.ascontiguousarray(array).tobytes()
        file = folder / f"{split}-{kind}{'.gz' * packed}"
        file.write_bytes(gzip.compress(content) if packed else content)
    return folder


def everything(data) -> np.ndarray:
    return data.read(np.arange(data.shape[0]))


# Readers


def _class_order(labels: np.ndarray) -> np.ndarray:
    return np.argsort(labels, kind="stable")


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


# Orders

POSITIONS = st.integers(0, 10**12)
SEEDS = st.integers(0, 2**64 - 1)


@given(n=st.integers(1, 300), seed=SEEDS, epoch=st.integers(0, 10**9))
@settings(max_examples=50, deadline=None)
def test_an_epoch_holds_every_image_once(n: int, seed: int, epoch: int):
    order = EpochOrder(n, seed)
    seen = order.at(epoch * n + np.arange(n))
    np.testing.assert_array_equal(np.sort(seen), np.arange(n))


def test_epochs_seeds_and_lanes_differ():
    first = EpochOrder(100, 0).at(np.arange(100))
    others = [EpochOrder(100, 0).at(100 + np.arange(100)), EpochOrder(100, 1).at(np.arange(100))]
    others += [EpochOrder(100, 2**32).at(np.arange(100)), EpochOrder(100, 0, lane=1).at(np.arange(100))]
    for other in others:
        assert (first == other).mean() < 0.1
    assert (first == np.arange(100)).mean() < 0.1


def test_every_image_comes_first_equally_often():
    """Chi-squared over 8 images and 4,000 epochs; beyond 30 with a probability of 1e-4, and the seed is fixed."""
    first = EpochOrder(8, 5).at(np.arange(4000) * 8)
    counts = np.bincount(first, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 30


@given(
    sizes=st.lists(st.integers(1, 500), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.01, 100), min_size=4, max_size=4),
    seed=SEEDS,
    start=st.integers(0, 10**9),
    count=st.integers(1, 400),
)
@settings(max_examples=40, deadline=None)
def test_orders_are_functions_of_the_position(sizes, weights, seed: int, start: int, count: int):
    """In any portion, in any sequence: the same."""
    for order in (MixedOrder(sizes, weights[: len(sizes)], seed), EpochOrder(sum(sizes), seed)):
        positions = np.arange(start, start + count)
        whole = order.at(positions)
        assert whole.min() >= 0
        assert whole.max() < sum(sizes)
        np.testing.assert_array_equal(order.at(positions[::-1]), whole[::-1])
        np.testing.assert_array_equal(order.at(positions[count // 2 :]), whole[count // 2 :])


def test_weights_are_kept():
    sizes, weights = (40, 7, 1000), np.array([5.0, 1.0, 2.0])
    order = MixedOrder(sizes, weights, seed=3)
    owners = np.searchsorted(np.cumsum(sizes), order.at(np.arange(50_000)), side="right")
    share = weights / weights.sum()
    np.testing.assert_allclose(np.bincount(owners) / 50_000, share, atol=1e-4)
    # In short stretches too: never further from the mean than six binomial standard deviations.
    for n in (64, 1000):
        counts = np.stack([np.bincount(part, minlength=3) for part in owners[: 50_000 // n * n].reshape(-1, n)])
        assert (np.abs(counts - n * share) < 6 * np.sqrt(n * share * (1 - share))).all()
        assert (counts.std(0) > 0).all()


def test_a_set_that_is_mixed_in_is_gone_through_before_it_repeats():
    order = MixedOrder((40, 7), (3, 1), seed=1)
    indices = order.at(np.arange(25_000))
    for mine, n in ((indices[indices < 40], 40), (indices[indices >= 40] - 40, 7)):
        epochs = mine[: len(mine) // n * n].reshape(-1, n)
        np.testing.assert_array_equal(np.sort(epochs, 1), np.tile(np.arange(n), (len(epochs), 1)))


# Batches


class Counted:
    """A set in memory that remembers what was read."""

    path, class_names, notes = Path("counted"), None, ()

    def __init__(self, n: int = 50, size: int = SIZE):
        self.images = np.random.default_rng(2).integers(0, 256, (n, size, size, 3), np.uint8)
        self.shape, self.labels = self.images.shape, np.arange(n)
        self.reads = 0

    def read(self, indices: np.ndarray) -> np.ndarray:
        self.reads += 1
        return self.images[indices]


def take(reader: BatchReader, start: int, count: int):
    with reader.batches(start) as stream:
        batches = [batch for _, batch in zip(range(count), stream, strict=False)]
        return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches]), stream.position


@given(start=POSITIONS, skipped=st.integers(0, 4), batch=st.integers(1, 9), world=st.integers(1, 4), seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_resuming_and_sharding_change_nothing(start: int, skipped: int, batch: int, world: int, seed: int):
    data = Counted()
    augmentation = Augmentation(seed, crop_padding=2)
    mixed = MixedData([Counted(20), Counted(30)], [1.0, 2.0])
    for source, order in ((data, EpochOrder(50, seed)), (mixed, mixed.order(seed))):
        whole = BatchReader(source, order, batch_size=batch * world, augmentation=augmentation)
        images, labels, end = take(whole, start, 5)
        assert end == start + 5 * batch * world
        # Nor does where a batch begins.
        assert torch.equal(take(whole, start + 1, 4)[0], images[1 : 1 + 4 * batch * world])
        shards = [
            BatchReader(source, order, batch_size=batch, rank=r, world=world, augmentation=augmentation, threads=1 + r)
            for r in range(world)
        ]
        later = start + skipped * batch * world
        parts = [take(shard, later, 5 - skipped) for shard in shards]
        assert all(part[2] == end for part in parts)
        # Process r's i-th image is the global batches' image r + i * world.
        rest = skipped * batch * world
        assert torch.equal(torch.stack([p[0] for p in parts], 1).flatten(0, 1), images[rest:])
        assert torch.equal(torch.stack([p[1] for p in parts], 1).flatten(), labels[rest:])


def test_batches_are_what_the_order_says():
    data = Counted()
    order = EpochOrder(50, 9)
    images, labels, _ = take(BatchReader(data, order, batch_size=10), 30, 3)
    indices = order.at(np.arange(30, 60))
    np.testing.assert_array_equal(labels, indices)
    assert labels.dtype == torch.int64
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(images, (data.images[indices] / np.float32(255)).transpose(0, 3, 1, 2))


def test_a_flip_or_a_crop_is_one_of_the_possible_ones_and_all_occur():
    data, pad = Counted(1), 1
    padded = np.pad(data.images[0], ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    views = [padded[top : top + SIZE, left : left + SIZE] for top in range(3) for left in range(3)]
    views += [view[:, ::-1] for view in views]
    possible = {view.tobytes(): k for k, view in enumerate(views)}
    positions = np.arange(1800)
    augmented = Augmentation(4, crop_padding=pad).apply(data.images.repeat(1800, 0), positions)
    counts = np.bincount([possible[image.tobytes()] for image in augmented], minlength=18)
    assert (
        (counts - 100) ** 2 / 100
    ).sum() < 50  # chi-squared, 17 degrees of freedom: beyond with 5e-5; the seed is fixed
    other = Augmentation(5, crop_padding=pad).apply(data.images.repeat(1800, 0), positions)
    assert (other == augmented).all(axis=(1, 2, 3)).mean() < 0.2
    untouched = Augmentation(4, flip=False).apply(data.images, np.zeros(1, np.int64))
    np.testing.assert_array_equal(untouched, data.images)


def test_reading_ahead_is_bounded_and_stops():
    before = threading.active_count()
    data = Counted()
    stream = BatchReader(data, EpochOrder(50, 0), batch_size=5, ahead=3).batches()
    next(stream)
    stream.close()
    assert data.reads <= 4
    assert threading.active_count() == before
    assert list(stream) == []
    assert stream.position == 5


def test_what_goes_wrong_in_a_thread_comes_out_of_next(tmp_path: Path, pixels: np.ndarray, targets: np.ndarray):
    root = save_folder(tmp_path / "set", pixels, targets, ("a", "b", "c"))
    broken = root / "b" / "004.png"
    broken.write_bytes(broken.read_bytes()[:-60])
    data = open_real(root, resolution=None, channels=None)  # its header is whole
    with pytest.raises(BadInputError, match=str(broken)):
        take(BatchReader(data, EpochOrder(COUNT, 0), batch_size=10), 0, 3)
    with pytest.raises(BadInputError, match=str(broken)):
        decode_all(data, batch_size=4)


def test_to_tensor_keeps_every_level():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    x = to_tensor(levels)
    assert x.shape == (1, 1, 16, 16)
    np.testing.assert_array_equal((x * 255).round().to(torch.uint8).numpy().ravel(), levels.ravel())
    assert (x.min(), x.max()) == (0, 1)


def test_hold_out_splits(tmp_path: Path, pixels: np.ndarray, targets: np.ndarray):
    data = open_real(save_npz(tmp_path / "a.npz", pixels, targets), resolution=None, channels=None)
    train, held_out = hold_out(data, 7, seed=1)
    assert (train.shape[0], held_out.shape[0]) == (COUNT - 7, 7)
    both = np.concatenate([everything(train), everything(held_out)])
    assert {image.tobytes() for image in both} == {image.tobytes() for image in pixels}
    np.testing.assert_array_equal(hold_out(data, 7, seed=1)[1].labels, held_out.labels)
    mixed = open_generated(
        [data.path, data.path], [1.0, 3.0], num_classes=CLASSES, resolution=None, channels=None
    ).hold_out(8, seed=0)
    assert [source.shape[0] for source in mixed[1].sources] == [2, 6]
    assert [source.shape[0] for source in mixed[0].sources] == [COUNT - 2, COUNT - 6]
    with pytest.raises(BadInputError, match=str(data.path)):
        hold_out(data, COUNT, seed=0)


# Pairs


def generated(*paths: Path, weights=None, num_classes=CLASSES, resolution=None, channels=None, **options) -> MixedData:
    return open_generated(paths, weights, num_classes=num_classes, resolution=resolution, channels=channels, **options)


def test_generated_sets_are_mixed(tmp_path: Path, pixels: np.ndarray, targets: np.ndarray):
    one = save_npz(tmp_path / "one.npz", pixels[:10], targets[:10])
    two = save_folder(tmp_path / "two", pixels[10:], targets[10:], ("0", "1", "2"))
    mixed = generated(one, two)
    order = np.concatenate([np.arange(10), 10 + _class_order(targets[10:])])
    shuffled = np.random.default_rng(0).permutation(COUNT)
    np.testing.assert_array_equal(mixed.read(shuffled), pixels[order][shuffled])
    np.testing.assert_array_equal(mixed.labels, targets[order])
    assert mixed.weights == (10, 20)  # by size, where none are given
    assert (mixed.order(0).at(np.arange(30_000)) < 10).sum() == pytest.approx(10_000, abs=3)
    assert check_pair(mixed, mixed, num_classes=CLASSES) == []


def test_named_folders_of_a_generator_are_the_real_sets_classes(
    tmp_path: Path, pixels: np.ndarray, targets: np.ndarray
):
    path = save_folder(tmp_path / "set", pixels, targets % 2, ("cow", "ant"))
    mixed = generated(path, class_names=("ant", "bee", "cow"))
    assert sorted(np.unique(mixed.labels)) == [0, 2]
    np.testing.assert_array_equal(mixed.read(np.flatnonzero(mixed.labels == 2)), pixels[targets % 2 == 0])
    for names in (("ant", "bee", "cat"), None):
        with pytest.raises(BadInputError, match=str(path)):
            generated(path, class_names=names)


def test_classes_without_images_are_noted(tmp_path: Path, pixels: np.ndarray, targets: np.ndarray):
    real = open_real(save_npz(tmp_path / "a.npz", pixels, targets * 2), resolution=None, channels=None)
    notes = check_pair(real, generated(save_npz(tmp_path / "g.npz", pixels, targets), num_classes=5), num_classes=5)
    assert any("a.npz: 2 of 5 classes have no real images (1, 3)" in note for note in notes)
    assert any("g.npz: 2 of 5 classes have no generated images (3, 4)" in note for note in notes)


# Bad data: (name of what is bad, words of the message, how it is made below `tmp_path` and opened)

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
    "empty folder": ("set", "class folders", lambda p, x, y: _change(p / "set", Path.mkdir)),
    "class folders without images": (
        "set",
        "without images",
        lambda p, x, y: _change(p / "set", lambda r: (r / "a").mkdir(parents=True)),
    ),
    "no class folders": ("set", "no class", lambda p, x, y: _change(p / "set", lambda r: save_png(r / "1.png", x[0]))),
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
    "16 bits": (
        "set/a/1.png",
        "8 bits",
        lambda p, x, y: _change(p / "set", lambda r: save_png(r / "a" / "1.png", np.zeros((SIZE, SIZE), np.uint16))),
    ),
    "other size": (
        "set/c/z.png",
        "resolution",
        lambda p, x, y: _change(
            save_folder(p / "set", x, y, NAMES), lambda r: save_png(r / "c" / "z.png", x[0, :, :5].copy())
        ),
    ),
    "grey among coloured": (
        "set/c/z.png",
        "channels",
        lambda p, x, y: _change(
            save_folder(p / "set", x, y, NAMES), lambda r: save_png(r / "c" / "z.png", x[0, ..., :1])
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
