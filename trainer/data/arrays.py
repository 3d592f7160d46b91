"""Sets whose images are arrays on disk: npz files of samples, downsampled ImageNet, IDX files."""

from __future__ import annotations

import gzip
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jboost.engine.errors import BadInputError
from jboost.engine.samples import check_images, check_labels
from jboost.engine.samples.listing import is_junk
from jboost.engine.samples.npz import DAMAGE, NpzSamples
from jboost.engine.samples.options import AS_IT_IS, ReadOptions

from .base import Indices, Pixels, naming
from .storage import bytes_after, is_gzip, npz_array


class ArrayData:
    """Images in one or more arrays, as an `ImageData`.

    Args:
        path: the file or folder.
        parts: arrays uint8 [n, H, W, C]; views of mapped files, so `read` loads the pixels.
        labels: int64 [N], the labels of all parts in order.
        class_names: see `ImageData`.
        label_source: see `ImageData`.
        notes: see `ImageData`.
    """

    def __init__(
        self,
        path: Path,
        parts: Sequence[Pixels],
        labels: Indices,
        *,
        class_names: tuple[str, ...] | None = None,
        label_source: str = "its labels",
        notes: tuple[str, ...] = (),
    ):
        self.path, self.labels, self.class_names, self.notes = path, labels, class_names, notes
        self.label_source = label_source
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        _, h, w, c = parts[0].shape
        self.shape: tuple[int, int, int, int] = (int(self._starts[-1]), h, w, c)

    def read(self, indices: Indices) -> Pixels:
        """Images uint8 [n, H, W, C] at `indices` [n]."""
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        for k in np.unique(owners):
            mine = owners == k
            out[mine] = self._parts[k][indices[mine] - self._starts[k]]
        return out

    def original(self, index: int) -> Pixels:
        """One image, uint8 [H, W, C]."""
        image: Pixels = self.read(np.array([index]))[0]
        return image


def open_sample_npz(path: Path, reading: ReadOptions = AS_IT_IS) -> tuple[Pixels, Indices | None]:
    """Open an npz with ``arr_0`` and ``arr_1``, the format of OpenAI's guided-diffusion, or with other usual names.

    Returns:
        Images uint8 [N, H, W, C] and labels int64 [N]; None in place of the labels if there are none.

    Raises:
        BadInputError: see `jboost.engine.samples.open_samples`.
    """
    with naming(path):
        samples = NpzSamples(path, reading)  # which also checks everything but the pixels
    return npz_array(path, samples.images_key), samples.labels


def open_downsampled_imagenet(path: Path) -> ArrayData:
    """Open downsampled ImageNet (Chrabaszcz, Loshchilov, Hutter, arXiv 1707.08819).

    Its npz files hold ``data`` uint8 [n, 3 S S], each image planar and row by row, and ``labels`` counted from 1.

    The labels number the classes as the ILSVRC development kit does, but nearly every classifier and generator of
    ImageNet sorts the classes by WordNet id. If the kit's ``map_clsloc.txt`` (lines such as ``n02119789 1 kit_fox``)
    lies beside the files, the labels are converted to that order.

    Args:
        path: one file, or a folder. If the folder has files of the training set (``train_data_batch_1.npz`` and on),
            only these are opened.

    Raises:
        BadInputError: a file does not fit; the message names it.
    """
    files = sorted(npz_files(path), key=_natural) if path.is_dir() else [path]
    files = [f for f in files if f.name.startswith("train")] or files
    arrays = [npz_array(file, "data", parts=len(files)) for file in files]
    parts, labels = [], []
    for file, data in zip(files, arrays, strict=True):
        side = round((data.shape[-1] / 3) ** 0.5)
        if data.dtype != np.uint8 or data.ndim != 2 or 3 * side * side != data.shape[1] or not len(data):
            raise BadInputError(f"{file}: data is {data.dtype} {list(data.shape)}, expected uint8 [N, 3 * S * S]")
        if not data.flags.c_contiguous:  # reshaping it would copy the whole array
            raise BadInputError(f"{file}: data is in Fortran order; save np.ascontiguousarray(data)")
        if data.shape[1] != arrays[0].shape[1]:
            raise BadInputError(f"{file} has images of another size than {files[0]}; use a folder of one size")
        parts.append(data.reshape(-1, 3, side, side).transpose(0, 2, 3, 1))
        own = check_labels(f"{file}: labels", np.asarray(npz_array(file, "labels")), len(data))
        if int(own.min()) < 1 or int(own.max()) > 1000:
            raise BadInputError(
                f"{file}: labels range from {own.min()} to {own.max()}, but this format counts them from 1 to 1000; "
                "save other sets as np.savez(path, images, labels) with images uint8 [N, H, W, C] and labels from 0"
            )
        labels.append(own - 1)
    joined = np.concatenate(labels)
    listing = files[0].with_name("map_clsloc.txt")
    if not listing.exists():
        note = (
            f"{path}: the classes are numbered as in ImageNet's development kit, but most generators sort them by "
            f"WordNet id; if yours does, put the kit's map_clsloc.txt into {listing.parent}"
        )
        return ArrayData(path, parts, joined, notes=(note,))
    ids = _read_class_list(listing)
    names = sorted(ids)
    rank = np.array([names.index(name) for name in ids], np.int64)
    return ArrayData(path, parts, rank[joined], class_names=tuple(names))


def npz_files(folder: Path) -> list[Path]:
    """The npz files of a folder, without what systems leave behind."""
    return [path for path in sorted(folder.glob("*.npz")) if not is_junk(path.name)]


def _natural(path: Path) -> list[int | str]:
    """Sort key that puts batch 10 after batch 9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def _read_class_list(path: Path) -> list[str]:
    """The WordNet ids of ``map_clsloc.txt``, by class number."""
    try:
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
        by_number = {int(line[1]): line[0] for line in lines}
        if sorted(by_number) != list(range(1, 1001)) or len(set(by_number.values())) != 1000:
            raise ValueError(f"{len(by_number)} classes instead of 1 to 1000")
    except (ValueError, IndexError, OSError) as e:
        raise BadInputError(f"{path} is not a list of 1000 lines such as 'n02119789 1 kit_fox' ({e})") from e
    return [by_number[k] for k in range(1, 1001)]


def find_idx(folder: Path) -> Path | None:
    """Find the IDX file of images in a folder: the training set's if there are several; None if there is none.

    Raises:
        BadInputError: several files fit; the message names them.
    """
    found = sorted(
        p
        for p in folder.iterdir()
        if not is_junk(p.name) and "images" in p.name and re.search(r"idx3-ubyte(\.gz)?$", p.name) and p.is_file()
    )
    found = [p for p in found if "train" in p.name] or found
    # If a file lies beside its compressed original, both hold the same set, and the file needs no decompression.
    found = [p for p in found if p.suffix != ".gz" or p.with_suffix("") not in found]
    if len(found) > 1:
        raise BadInputError(f"{folder} holds several sets ({', '.join(p.name for p in found)}); name one of the files")
    return found[0] if found else None


def is_idx(path: Path) -> bool:
    """Whether a file begins as IDX files of bytes do, compressed with gzip or not."""
    try:
        with _open(path) as f:
            return bool(f.read(3) == b"\0\0\x08")
    except DAMAGE:
        return False


def open_idx(path: Path) -> ArrayData:
    """Open MNIST's format: images uint8 [N, H, W] in one file, labels uint8 [N] in another beside it.

    Either file may be compressed with gzip.

    Raises:
        BadInputError: a file is missing, damaged, or does not fit the other.
    """
    images = _read_idx(path, 3)
    check_images(str(path), (*images.shape, 1), images.dtype)
    name = path.name.replace("images", "labels").replace("idx3", "idx1").removesuffix(".gz")
    candidates = [path.with_name(n) for n in (name, f"{name}.gz") if n != path.name]
    beside = next((p for p in candidates if p.is_file()), None)
    if beside is None:
        raise BadInputError(f"{path} has no labels: there is no {path.with_name(name)}, compressed or not")
    labels = check_labels(str(beside), np.asarray(_read_idx(beside, 1)), len(images))
    return ArrayData(path, [images[..., None]], labels)


def _open(path: Path) -> Any:
    return gzip.open(path) if is_gzip(path) else path.open("rb")


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes.

    It holds two zeros, the type (8), the number of dimensions, their sizes (32 bits, big-endian) and the data.
    """
    try:
        with _open(path) as f:
            zeros, kind, rank = struct.unpack(">HBB", f.read(4))
            sizes = struct.unpack(f">{rank}I", f.read(4 * rank))
    except (*DAMAGE, struct.error) as e:
        raise BadInputError(f"{path} is not a readable IDX file ({e}); make or copy it again") from e
    if (zeros, kind, rank) != (0, 8, dimensions):
        what = "images [N, H, W]" if dimensions == 3 else "labels [N]"
        raise BadInputError(f"{path} does not hold {what} as bytes (IDX type {kind}, {rank} dimensions)")
    if 0 in sizes:
        raise BadInputError(f"{path} is empty (sizes {list(sizes)})")
    return bytes_after(path, 4 + 4 * rank, int(np.prod(sizes, dtype=np.int64))).reshape(sizes)
