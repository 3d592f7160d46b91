"""Sets of images on disk, in every layout."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from PIL import Image

from jboost.trainer.data import MixedData, open_generated

SIZE, COUNT, CLASSES = 8, 30, 3


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


def generated(*paths: Path, weights=None, num_classes=CLASSES, resolution=None, channels=None, **options) -> MixedData:
    return open_generated(paths, weights, num_classes=num_classes, resolution=resolution, channels=channels, **options)


def class_order(labels: np.ndarray) -> np.ndarray:
    return np.argsort(labels, kind="stable")
