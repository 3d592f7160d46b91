"""Images of no class: every kind of set opens without its labels, and is resized as real images are."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jboost.trainer.data import check_pair, open_generated, open_real

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)


def make(kind: str, folder: Path) -> Path:
    """The images as a set of one kind, with labels that are none or wrong."""
    if kind == "npz without labels":
        np.savez(folder / "a.npz", IMAGES)
        return folder / "a.npz"
    if kind == "npz with other things as labels":
        np.savez(folder / "b.npz", IMAGES, np.array([0.5, -3.0]))
        return folder / "b.npz"
    if kind == "npy":
        np.save(folder / "c.npy", IMAGES)
        return folder / "c.npy"
    if kind == "zip":
        with zipfile.ZipFile(folder / "d.zip", "w") as archive:
            for i, image in enumerate(IMAGES):
                data = BytesIO()
                Image.fromarray(image).save(data, "PNG")
                archive.writestr(f"{i % 4}/{i}.png", data.getvalue())
        return folder / "d.zip"
    for i, image in enumerate(IMAGES):  # one class folder alone, beside files that lie in none
        where = folder / "e" / ("sub" if i > 3 else ".")
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(where / f"{i}.png")
    return folder / "e"


KINDS = ("npz without labels", "npz with other things as labels", "npy", "zip", "folder")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_opens_without_its_labels(kind: str, tmp_path: Path) -> None:
    data = open_generated([make(kind, tmp_path)], None, num_classes=3, resolution=8, channels=3, labelled=False)
    assert data.label_source == "the paired real images"
    assert data.labels.tolist() == [0] * 6
    order = [0, 4, 1, 5, 2, 3] if kind == "zip" else range(6)
    assert np.array_equal(data.read(np.arange(6)), IMAGES[list(order)])


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_resized_as_real_images_are(kind: str, tmp_path: Path) -> None:
    ours = open_generated([make(kind, tmp_path)], None, num_classes=3, resolution=5, channels=1, labelled=False)
    np.savez(tmp_path / "real.npz", IMAGES, np.arange(6) % 3)
    real = open_real(tmp_path / "real.npz", resolution=5, channels=1)
    order = [0, 4, 1, 5, 2, 3] if kind == "zip" else range(6)
    assert np.array_equal(ours.read(np.arange(6)), real.read(np.array(order)))
    assert any("resized" in note for note in ours.notes)
    assert check_pair(real, ours, num_classes=3, labelled=False)  # the notes; no class is missing
