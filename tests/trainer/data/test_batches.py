"""Batches are what the order says, for any number of processes and from any position on."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from data_cases import (
    CLASSES,
    COUNT,
    SIZE,
    everything,
    save_folder,
    save_npz,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from jboost.engine.errors import BadInputError
from jboost.trainer.data import (
    Augmentation,
    BatchReader,
    EpochOrder,
    MixedData,
    decode_all,
    hold_out,
    open_generated,
    open_real,
    to_tensor,
)

POSITIONS = st.integers(0, 10**12)
SEEDS = st.integers(0, 2**64 - 1)


class Counted:
    """A set in memory that remembers what was read."""

    path, class_names, label_source, notes = Path("counted"), None, "made up", ()

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
