"""Sample sets as PNG files, in a folder or a zip file, sorted by path.

An image's class is its folder's name: a number, or a name that is resolved against the bundle's class names later. A
``dataset.json`` in the format of StyleGAN and EDM ({"labels": [[path, class], ...]}) takes precedence over folders.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from jboost.engine.errors import BadInputError, one_line
from jboost.engine.system.names import check_names, path_inside
from jboost.engine.system.typed import as_int, as_list, as_mapping, as_text, load_json

from .base import labels_of_numbers
from .identity import folder_contents, zip_contents

_CHANNELS = {"L": 1, "RGB": 3}
_DATASET_JSON = "dataset.json"
#: The most bytes of a file in a set. Files are read whole, and an archive of a few kilobytes may hold gigabytes of zeros.
FILE_LIMIT = 256 << 20
_MOST_LABELS = 100_000_000
# What Pillow and zipfile raise for damaged and hostile files.
_DAMAGE = (
    UnidentifiedImageError, OSError, EOFError, SyntaxError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError,
    RuntimeError, MemoryError, OverflowError,
)  # fmt: skip


class PngSamples:
    """A folder or zip file of PNGs as a `SampleSet`.

    Raises:
        BadInputError: there are no PNGs, a file is unreadable, sizes or modes differ, a mode is not 8-bit RGB or grey,
            labels are missing or invalid, or some images are in folders and some are not.
    """

    def __init__(self, path: Path):
        self.path = path
        self.kind = "folder" if path.is_dir() else "zip"
        self._archive: zipfile.ZipFile | None = None
        if self.kind == "zip":
            try:
                self._archive = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as e:
                raise BadInputError(f"{path} is not a readable zip file ({e}); make or copy it again") from e
            check_names(path, self._archive.namelist())
            entries = {i.filename: i.file_size for i in self._archive.infolist() if not i.is_dir()}
        else:
            entries = {p.relative_to(path).as_posix(): p.stat().st_size for p in path.rglob("*") if p.is_file()}
        self.names: list[str] = sorted(name for name in entries if name.lower().endswith(".png"))
        pngs = set(self.names)
        self.others: list[str] = sorted(
            n for n in entries if n not in pngs and (self.kind == "zip" or n == _DATASET_JSON)
        )
        used = [*self.names, *self.others]
        if self.kind == "folder":
            check_names(path, used)
        if huge := next((name for name in used if entries[name] > FILE_LIMIT), None):
            raise BadInputError(
                f"{path}: {huge} has {entries[huge]:,} bytes, at most {FILE_LIMIT:,} are read; leave it out of the set"
            )
        if not self.names:
            raise BadInputError(f"{path} holds no .png files; give a samples.npz, or a folder or zip of PNGs")
        first = self._open(self.names[0])
        self.shape = (len(self.names), first.height, first.width, _CHANNELS[first.mode])
        for name in self.names:  # reads only the headers, to refuse a set of mixed sizes before anything runs
            image = self._open(name)
            if (image.height, image.width, _CHANNELS[image.mode]) != self.shape[1:]:
                raise BadInputError(
                    f"{path}: {name} is {image.width}x{image.height} {image.mode}, "
                    f"{self.names[0]} is {first.width}x{first.height} {first.mode}; all must have one size and mode"
                )
        self.labels, self.label_names = self._read_labels(entries)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the set's contents. It reads all of a folder, so it is made only when it is asked for."""
        if self._archive is not None:
            return zip_contents(self._archive)
        return folder_contents(self.path, [*self.names, *self.others])

    def bytes_of(self, name: str) -> bytes:
        """The contents of one file of the set."""
        if self._archive is not None:
            return self._archive.read(name)
        return (self.path / name).read_bytes()

    def _open(self, name: str) -> Image.Image:
        try:
            image = Image.open(io.BytesIO(self.bytes_of(name)) if self._archive else self.path / name, formats=["PNG"])
        except Image.DecompressionBombError as e:
            raise too_large(f"{self.path}: {name}") from e
        except _DAMAGE as e:
            raise BadInputError(f"{self.path}: {name} is not a readable PNG ({_why(e)}); repair or remove it") from e
        if image.mode not in _CHANNELS:
            raise BadInputError(
                f"{self.path}: {name} has mode {image.mode}; only 8-bit RGB and grey (L) images work; convert it with "
                "PIL's Image.convert('RGB')"
            )
        return image

    def _read_labels(self, entries: dict[str, int]) -> tuple[np.ndarray[Any, Any] | None, tuple[str, ...] | None]:
        if _DATASET_JSON in entries:
            try:
                classes = _read_dataset(self.bytes_of(_DATASET_JSON), self.names)
            except (*_DAMAGE, KeyError) as e:
                raise BadInputError(
                    f"{self.path}/{_DATASET_JSON} does not label every PNG: {_why(e)}; write it as "
                    '{"labels": [["a.png", 3], ...]}'
                ) from e
            if classes is not None:
                return labels_of_numbers(_DATASET_JSON, classes), None
        folders = [PurePosixPath(n).parent.name for n in self.names]
        if not any(folders):
            return None, None
        if not all(folders):
            raise BadInputError(
                f"{self.path} has PNGs both in class folders and beside them; put all into folders, or none"
            )
        if all(f.isdecimal() for f in folders):
            return labels_of_numbers(f"{self.path}: folder names", [int(f) for f in folders]), None
        known = tuple(sorted(set(folders)))
        if len(known) == 1:
            return None, None  # a single folder around the images says nothing about classes
        return np.array([known.index(f) for f in folders], np.int64), known

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at ascending `indices`."""
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for row, i in enumerate(indices):
            name = self.names[int(i)]
            try:
                out[row] = np.asarray(self._open(name)).reshape(self.shape[1:])
            except BadInputError:
                raise
            except _DAMAGE as e:
                raise BadInputError(f"{self.path}: {name} is damaged ({_why(e)}); repair or remove it") from e
        return out


def _why(e: Exception) -> str:
    if isinstance(e, KeyError):
        return f"it has no label for {e.args[0]}"
    return "not a PNG" if isinstance(e, UnidentifiedImageError) else one_line(e)


def too_large(name: str) -> BadInputError:
    """The error for an image whose header claims more pixels than Pillow decodes."""
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    return BadInputError(
        f"{name} is too large: its header claims more than {limit:,} pixels, the limit; remove it, or resize it"
    )


def _read_dataset(text: bytes, names: list[str]) -> list[int] | None:
    """The class of each name by the text of a ``dataset.json``; None if it has no labels.

    Raises:
        BadInputError: it is no such file.
        KeyError: a name has no label.
    """
    pairs = as_mapping(load_json(text), "it").get("labels")
    if pairs is None:
        return None
    by_name: dict[str, int] = {}
    for i, pair in enumerate(as_list(pairs, "labels", most=_MOST_LABELS)):
        pair = as_list(pair, f"labels[{i}]", most=2)
        if len(pair) != 2:
            raise BadInputError(f"labels[{i}] must be a name and a class")
        name, label = as_text(pair[0], f"labels[{i}][0]"), as_int(pair[1], f"labels[{i}][1]")
        if by_name.setdefault(name, label) != label:
            raise BadInputError(f"{name} has two labels")
    return [by_name[name] for name in names]


def encode(image: np.ndarray[Any, Any]) -> bytes:
    """One image uint8 [H, W, C] as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def png_names(count: int) -> list[str]:
    """Names, in order, for a set without names: ``000000.png`` and so on."""
    width = max(6, len(str(count - 1)))
    return [f"{i:0{width}d}.png" for i in range(count)]


def _companions(names: list[str], labels: np.ndarray[Any, Any] | None, source: PngSamples | None) -> dict[str, bytes]:
    """The files beside the images: the source's; or a ``dataset.json`` if there is no source but there are labels.

    Labels do not become class folders: sorting by path would then change the images' order.
    """
    if source is not None:
        return {name: source.bytes_of(name) for name in source.others}
    if labels is None:
        return {}
    pairs = [[name, int(c)] for name, c in zip(names, labels, strict=True)]
    return {_DATASET_JSON: json.dumps({"labels": pairs}).encode()}


def write_pngs(
    out: Path,
    count: int,
    batches: Iterator[np.ndarray[Any, Any]],
    *,
    zipped: bool,
    labels: np.ndarray[Any, Any] | None = None,
    source: PngSamples | None = None,
) -> None:
    """Write images as PNGs, under the source's names if one is given.

    No file is written outside `out`, whatever its name says.

    Args:
        out: an empty folder, or a zip file if `zipped`.
        count: number of images.
        batches: uint8 [n, H, W, C], `count` images in total.
        zipped: whether to write a zip file.
        labels: int64 [N], for a ``dataset.json`` if there is no source.
        source: the set whose names and other files the output takes over.
    """
    names = source.names if source is not None else png_names(count)
    images = (encode(image) for batch in batches for image in batch)
    files = chain(zip(names, images, strict=True), _companions(names, labels, source).items())
    if zipped:
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in files:
                archive.writestr(zipfile.ZipInfo(name), data)  # ZipInfo has a fixed date: same images, same bytes
        return
    for name, data in files:
        path = path_inside(out, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
