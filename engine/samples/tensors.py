"""Images in a file of torch.save: a tensor, a dict of tensors, or images and labels in a tuple.

The file is mapped, not loaded, and read with ``weights_only=True``. torch is imported when such a file is opened.
"""

from __future__ import annotations

import math
import pickle
import re
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jboost.engine.errors import BadInputError, one_line

from .base import check_images, check_labels
from .encode import singly
from .identity import file_contents
from .keys import PAIRS, choose_arrays
from .options import AS_IT_IS, ReadOptions
from .remedies import rows_within

if TYPE_CHECKING:
    from torch import Tensor

_SAVE = "torch.save({'images': images, 'labels': labels}, path)"
_POSITIONS = ("arr_0", "arr_1")
#: The most members of such a file: a record for each tensor, and a few more.
_MOST_RECORDS = 1000


class TensorSamples:
    """A file of torch.save as a `SampleSet`: images uint8 [N, H, W, C], or [N, C, H, W] where the shape says so.

    Attributes:
        content: what the file holds.
        images_key: the images' name in it; None if it is a tensor alone.
        planar: whether the images are [N, C, H, W].

    Raises:
        BadInputError: the file is damaged or holds code; it does not hold images, or leaves open which they are.
    """

    kind = "pt"
    label_names: tuple[str, ...] | None = None

    def __init__(self, path: Path, options: ReadOptions = AS_IT_IS):
        self.path, self._options = path, options
        self.content = load(path)
        tensors = named(self.content)
        if tensors is None:
            raise BadInputError(f"{path} holds no tensors of images; save it with: {_SAVE}")
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        self.images_key, key = choose_arrays(path, shapes, options, save=_SAVE)
        images = _array(path, self.images_key, tensors[self.images_key])
        self.planar = images.dtype == np.uint8 and images.ndim == 4 and _is_planar(path, images.shape)
        self._images = images.transpose(0, 2, 3, 1) if self.planar else images
        with _for_tensors(path):
            part = self._images[: rows_within(self._images.shape, self._images.dtype)] if images.ndim else None
            check_images(f"{self.images_key}{_numpy(images)}", self._images.shape, self._images.dtype, part)
        n, h, w, c = self._images.shape
        self.shape: tuple[int, int, int, int] = (n, h, w, c)
        said = f"the images {list(images.shape)} are read as [N, C, H, W]"
        self.notes: tuple[str, ...] = (said,) if self.planar else ()
        self.labels: np.ndarray[Any, np.dtype[np.int64]] | None = None
        self.label_source = "none: no tensor of labels"
        if key is not None:
            labels = _array(path, key, tensors[key])
            with _for_tensors(path):
                rows = labels if labels.ndim <= 1 else labels[: rows_within(labels.shape, labels.dtype)]
                self.labels = check_labels(f"{key}{_numpy(labels)}", rows, len(images), shape=labels.shape)
            self.label_source = key

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the file. It reads all of it, so it is made only when it is asked for."""
        return self._options.apply_to(file_contents(self.path))

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at `indices`."""
        return np.ascontiguousarray(self._images[indices])


def load(path: Path) -> object:
    """What a file of torch.save holds, its tensors mapped.

    Raises:
        BadInputError: it is no such file, is damaged, or holds code.
    """
    import torch

    try:
        with zipfile.ZipFile(path) as archive:
            if len(archive.namelist()) > _MOST_RECORDS:
                raise BadInputError(f"{path} holds more than {_MOST_RECORDS} records, so it is no set of images")
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as e:
        raise BadInputError(
            f"{path} is not a file that torch.save writes since 1.6 ({one_line(e)}); save it again with: {_SAVE}"
        ) from e
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern how the file was written
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as e:
        raise BadInputError(
            f"{path} holds pickled objects other than tensors, which jboost never loads, or it is damaged; save plain "
            f"tensors: {_SAVE}"
        ) from e
    except MemoryError:
        raise
    except Exception as e:  # damaged bytes can raise anything in the reader
        raise BadInputError(f"{path} cannot be read ({type(e).__name__}: {one_line(e)}); make or copy it again") from e


def named(content: object) -> dict[str, Tensor] | None:
    """The tensors of a file by name: a tensor alone is ``images``, a pair ``arr_0`` and ``arr_1``; None if there are none."""
    import torch

    if isinstance(content, torch.Tensor):
        return {"images": content}
    if isinstance(content, list | tuple) and 1 <= len(content) <= 2:
        content = dict(zip(_POSITIONS, content, strict=False))
    if not isinstance(content, dict):
        return None
    return {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)} or None


def holds_images(path: Path) -> bool:
    """Whether a file of torch.save is a set of images rather than a checkpoint: its images have a usual name and 4 axes."""
    try:
        tensors = named(load(path))
    except BadInputError:
        return False
    return tensors is not None and any(name in tensors and tensors[name].ndim in (3, 4) for name in PAIRS)


def _array(path: Path, name: str, tensor: Tensor) -> np.ndarray[Any, Any]:
    """A tensor as an array that shares its memory.

    Raises:
        BadInputError: it is not a plain tensor with its values.
    """
    import torch

    plain = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_meta or tensor.is_quantized)
    if not plain or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise BadInputError(f"{path}: {name} is no plain tensor; save {name}.contiguous().clone()")
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # numpy has no such dtype, and no set of images does
        tensor = tensor.float()
    try:
        return tensor.resolve_conj().resolve_neg().numpy()
    except (TypeError, RuntimeError) as e:
        raise BadInputError(f"{path}: {name} has dtype {tensor.dtype}, images must be uint8 ({one_line(e)})") from e


def _numpy(array: np.ndarray[Any, Any]) -> str:
    """What makes a tensor the array; of bfloat16 it is no array yet."""
    return ".float().numpy()" if array.dtype.kind == "f" else ".numpy()"


def _is_planar(path: Path, shape: tuple[int, ...]) -> bool:
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first and last and shape[2] != shape[3]:
        raise BadInputError(
            f"{path}: the images {list(shape)} may be [N, C, H, W] or [N, H, W, C]; save them as an npz of [N, H, W, C]"
        )
    return first and not last


class _for_tensors:  # noqa: N801 (used as a function)
    """Makes what a message says to save a tensor, and names the file."""

    def __init__(self, path: Path):
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BadInputError):
            said = re.sub(
                r"save (?=np\.|\w+(\.float\(\))?\.numpy\(\))", "save torch.as_tensor(v) with v = ", str(error)
            )
            raise BadInputError(f"{self._path}: {said}") from error


def write_tensors(
    out: Path,
    shape: tuple[int, int, int, int],
    batches: Iterator[np.ndarray[Any, Any]],
    *,
    labels: np.ndarray[Any, Any] | None = None,
    source: TensorSamples | None = None,
) -> None:
    """Write a file of torch.save: ``{"images": uint8 [N, H, W, C], "labels": int64 [N]}``.

    The images pass through an unnamed file beside `out`, because torch.save wants them all.

    Args:
        out: the file.
        shape: (N, H, W, C).
        batches: uint8 [n, H, W, C], N images in total.
        labels: int64 [N] or None; unused if `source` is given.
        source: a file whose layout and other contents the output takes over.
    """
    import torch

    planar = source is not None and source.planar
    n, h, w, c = shape
    with tempfile.TemporaryFile(dir=out.parent) as f:
        for image in singly(batches):
            f.write(np.ascontiguousarray(image.transpose(2, 0, 1) if planar else image).data)
        f.flush()
        flat = torch.from_numpy(np.memmap(f, np.uint8, "r+", shape=(math.prod(shape),)))
        images = flat.view((n, c, h, w) if planar else shape)
        content: object
        if source is None:
            content = {"images": images} | ({} if labels is None else {"labels": torch.from_numpy(labels)})
        elif isinstance(source.content, torch.Tensor):
            content = images
        elif isinstance(source.content, dict):
            content = {k: images if k == source.images_key else v for k, v in source.content.items()}
        else:
            at = _POSITIONS.index(source.images_key)
            parts = [images if i == at else v for i, v in enumerate(list(source.content))]  # type: ignore[call-overload]
            content = parts if isinstance(source.content, list) else tuple(parts)
        with out.open("wb") as g:  # a path would put its name into the file
            torch.save(content, g)
