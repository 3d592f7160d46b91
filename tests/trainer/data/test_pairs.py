"""Real and generated sets together: mixed, of the same classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from data_cases import (
    CLASSES,
    COUNT,
    class_order,
    generated,
    save_folder,
    save_npz,
)

from jboost.engine.errors import BadInputError
from jboost.trainer.data import check_pair, open_real


def test_generated_sets_are_mixed(tmp_path: Path, pixels: np.ndarray, targets: np.ndarray):
    one = save_npz(tmp_path / "one.npz", pixels[:10], targets[:10])
    two = save_folder(tmp_path / "two", pixels[10:], targets[10:], ("0", "1", "2"))
    mixed = generated(one, two)
    order = np.concatenate([np.arange(10), 10 + class_order(targets[10:])])
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


def test_classes_of_one_set_alone_stop_a_training_unless_allowed(
    tmp_path: Path, pixels: np.ndarray, targets: np.ndarray
):
    real = open_real(save_npz(tmp_path / "a.npz", pixels, targets * 2), resolution=None, channels=None)
    fake = generated(save_npz(tmp_path / "g.npz", pixels, targets), num_classes=5)
    with pytest.raises(
        BadInputError,
        match=r"g\.npz has no generated images of class 4, and .*a\.npz has no real images of class 1;.*--missing",
    ):
        check_pair(real, fake, num_classes=5)
    notes = check_pair(real, fake, num_classes=5, missing_classes=True)
    assert any("a.npz: 2 of 5 classes have no real images (1, 3)" in note for note in notes)
    assert any("g.npz: 2 of 5 classes have no generated images (3, 4)" in note for note in notes)
