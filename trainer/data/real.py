"""Real images: open any supported kind of set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from jboost.engine.errors import BadInputError
from jboost.engine.samples import ReadOptions, open_samples
from jboost.engine.samples.options import AS_IT_IS

from .arrays import ArrayData, find_idx, is_idx, npz_files, open_downsampled_imagenet, open_idx, open_sample_npz
from .base import ImageData, naming
from .fit import check_wish, fitted
from .folder import SampleData
from .storage import npz_members


def open_real(
    path: Path, *, resolution: int | None, channels: int | None, reading: ReadOptions = AS_IT_IS
) -> ImageData:
    """Open a labelled set.

    A folder may hold:

    - IDX files (of several sets, the training set is opened);
    - downsampled ImageNet's npz files (likewise);
    - image files with a ``dataset.json``;
    - class folders of image files.

    A file may be:

    - a zip or tar of image files;
    - an IDX file of images, with its labels beside it;
    - an npz file with ``arr_0`` uint8 [N, H, W, C] and ``arr_1`` [N], or with downsampled ImageNet's ``data`` and
      ``labels``.

    If several processes open a compressed set, let one of them open it first: the others then find it in the cache.

    Args:
        path: a file or a folder.
        resolution: images are resized to it (shorter side) and cropped around the centre; None: keep the images as
            they are, all must agree.
        channels: 1 or 3, to convert to; None: keep the images as they are.
        reading: how to read image files; its resolution and channels are those above.

    Raises:
        BadInputError: the set cannot be used; the message names its path.
        FailureError: the cache cannot be written.
    """
    check_wish(path, resolution, channels)
    if not path.exists():
        raise BadInputError(f"{path} does not exist; give a folder of class folders, an npz or an IDX file")
    how = replace(
        reading,
        resize=resolution,
        channels=channels,
        luma=channels == 1,
        resize_flag="--resolution",
        keys_are_flags=False,
    )
    try:
        with naming(path):
            return fitted(_open(path, how), resolution, channels)
    except OSError as e:
        raise BadInputError(f"{e.filename or path} cannot be read ({e.strerror or e})") from e


def _open(path: Path, reading: ReadOptions) -> ImageData:
    if path.is_dir():
        if idx := find_idx(path):
            return open_idx(idx)
        if npz_files(path):
            return _open_npz_folder(path)
        return SampleData(open_samples(path, reading))
    if is_idx(path):
        return open_idx(path)
    if path.suffix.lower() != ".npz" and path.suffix:
        return SampleData(open_samples(path, reading))
    with path.open("rb") as f:
        if not f.read(4).startswith(b"PK"):
            raise BadInputError(
                f"{path} is neither an npz file, an IDX file, a zip or tar of images nor a folder of class folders"
            )
    members = npz_members(path)
    if {"data", "labels"} <= members:
        return open_downsampled_imagenet(path)
    images, labels = open_sample_npz(path, reading)
    if labels is None:
        raise BadInputError(f"{path} has no labels (arr_1); save them too: np.savez(path, images, labels)")
    return ArrayData(path, [images], labels, label_source="arr_1")


def _open_npz_folder(folder: Path) -> ImageData:
    for file in npz_files(folder):
        if not {"data", "labels"} <= npz_members(file):
            raise BadInputError(
                f"{file} lacks the 'data' and 'labels' of downsampled ImageNet's batches; give the path of a single npz"
            )
    return open_downsampled_imagenet(folder)
