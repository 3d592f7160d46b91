"""Real images: whatever kind of set lies at a path."""

from __future__ import annotations

from pathlib import Path

from jboost.engine.errors import BadInputError
from jboost.engine.samples import open_samples

from .arrays import ArrayData, find_idx, is_idx, open_downsampled_imagenet, open_idx, open_sample_npz
from .base import ImageData, naming
from .fit import check_wish, fitted
from .folder import FolderData, SampleData
from .storage import npz_members


def open_real(path: Path, *, resolution: int | None, channels: int | None) -> ImageData:
    """Open a labelled set.

    A folder is one of IDX files (the training set's are taken), of downsampled ImageNet's npz files (likewise), of PNGs with a
    ``dataset.json``, or of class folders. A file is a zip of PNGs, an IDX file of images with its labels beside it, or an npz file:
    ``arr_0`` uint8 [N, H, W, C] and ``arr_1`` [N], or downsampled ImageNet's ``data`` and ``labels``.

    Where several processes open a set that has to be decompressed, let one do so first: the others find it in the cache.

    Args:
        path: a file or a folder.
        resolution: images are resized to it (shorter side) and cropped around the centre; None takes them as they are, all alike.
        channels: 1 or 3 converts; None takes them as they are, all alike.

    Raises:
        BadInputError: naming the path.
        FailureError: the cache cannot be written.
    """
    check_wish(path, resolution, channels)
    if not path.exists():
        raise BadInputError(f"{path} does not exist; give a folder of class folders, an npz or an IDX file")
    try:
        with naming(path):
            if path.is_dir() and not _has_arrays(path) and not (path / "dataset.json").exists():
                return FolderData(path, resolution=resolution, channels=channels)
            return fitted(_open(path), resolution, channels)
    except OSError as e:
        raise BadInputError(f"{e.filename or path} cannot be read ({e.strerror or e})") from e


def _has_arrays(folder: Path) -> bool:
    return find_idx(folder) is not None or any(folder.glob("*.npz"))


def _open(path: Path) -> ImageData:
    if path.is_dir():
        if idx := find_idx(path):
            return open_idx(idx)
        if any(path.glob("*.npz")):
            return _open_npz_folder(path)
        return SampleData(open_samples(path))
    if path.suffix.lower() == ".zip":
        return SampleData(open_samples(path))
    if is_idx(path):
        return open_idx(path)
    with path.open("rb") as f:
        if not f.read(4).startswith(b"PK"):
            raise BadInputError(
                f"{path} is neither an npz nor an IDX file nor a zip of PNGs, nor a folder of class folders"
            )
    members = npz_members(path)
    if {"data", "labels"} <= members:
        return open_downsampled_imagenet(path)
    images, labels = open_sample_npz(path)
    if labels is None:
        raise BadInputError(f"{path} has no labels (arr_1); save them too: np.savez(path, images, labels)")
    return ArrayData(path, [images], labels)


def _open_npz_folder(folder: Path) -> ImageData:
    for file in sorted(folder.glob("*.npz")):
        if not {"data", "labels"} <= npz_members(file):
            raise BadInputError(
                f"{file} has no 'data' and 'labels', as downsampled ImageNet's batches have; give a single npz itself"
            )
    return open_downsampled_imagenet(folder)
