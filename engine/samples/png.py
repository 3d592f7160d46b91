"""Sample sets as PNG files, in a folder or a zip file, sorted by path.

An image's class is its folder's name: a number, or a name that is resolved against the bundle's class names later. A
``dataset.json`` in the format of StyleGAN and EDM ({"labels": [[path, class], ...]}) takes precedence over folders.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from jboost.engine.errors import BadInputError

from .base import check_labels
from .identity import folder_contents, zip_contents

_CHANNELS = {"L": 1, "RGB": 3}
_DATASET_JSON = "dataset.json"


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
            except (zipfile.BadZipFile, OSError) as e:
                raise BadInputError(f"{path} is not a readable zip file ({e}); make or copy it again") from e
            entries = {i.filename: i.file_size for i in self._archive.infolist() if not i.is_dir()}
        else:
            entries = {p.relative_to(path).as_posix(): p.stat().st_size for p in path.rglob("*") if p.is_file()}
        self.names: list[str] = sorted(name for name in entries if name.lower().endswith(".png"))
        pngs = set(self.names)
        self.others: list[str] = sorted(
            n for n in entries if n not in pngs and (self.kind == "zip" or n == _DATASET_JSON)
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
        except (UnidentifiedImageError, OSError, zipfile.BadZipFile, SyntaxError) as e:
            raise BadInputError(f"{self.path}: {name} is not a readable PNG ({e})") from e
        if image.mode not in _CHANNELS:
            raise BadInputError(
                f"{self.path}: {name} has mode {image.mode}; only 8-bit RGB and grey (L) images work; convert it with "
                "PIL's Image.convert('RGB')"
            )
        return image

    def _read_labels(self, entries: dict[str, int]) -> tuple[np.ndarray[Any, Any] | None, tuple[str, ...] | None]:
        if _DATASET_JSON in entries:
            try:
                pairs = json.loads(self.bytes_of(_DATASET_JSON)).get("labels")
                if pairs is not None:
                    by_name = dict(pairs)
                    return check_labels(
                        _DATASET_JSON, np.array([by_name[n] for n in self.names]), len(self.names)
                    ), None
            except (ValueError, KeyError, TypeError, AttributeError) as e:
                raise BadInputError(
                    f"{self.path}/{_DATASET_JSON} does not label every PNG ({type(e).__name__}: {e})"
                ) from e
        folders = [PurePosixPath(n).parent.name for n in self.names]
        if not any(folders):
            return None, None
        if not all(folders):
            raise BadInputError(
                f"{self.path} has PNGs both in class folders and beside them; put all into folders, or none"
            )
        if all(f.isdecimal() for f in folders):
            return check_labels("folder names", np.array([int(f) for f in folders], np.int64), len(folders)), None
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
            except (OSError, SyntaxError, ValueError, zipfile.BadZipFile) as e:
                raise BadInputError(f"{self.path}: {name} is damaged ({e})") from e
        return out


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
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
