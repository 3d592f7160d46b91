"""Class folders of image files, as torchvision's ImageFolder lays them out, and the engine's sets of PNGs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, UnidentifiedImageError

from jboost.engine.errors import BadInputError
from jboost.engine.samples import SampleSet
from jboost.engine.samples.base import labels_of_numbers
from jboost.engine.samples.decode import too_large

from .base import Indices, Pixels
from .fit import channels_of, fit_image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_FORMATS = ["PNG", "JPEG", "WEBP", "BMP"]
_SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test"})
_HEADERS_A_TASK = 512

# Height, width, channels (None: not an 8-bit image).
_Kind = tuple[int, int, int | None]


class FolderData:
    """A tree of class folders as an `ImageData`; files are found at any depth below their class, sorted by path.

    If the names of all folders are numbers, they are the class numbers. Otherwise classes are numbered in sorted order,
    empty folders included. Names that begin with a dot are ignored. Opening reads the header of each file; `read`
    decodes the rest.

    Args:
        path: the folder above the class folders.
        resolution: see `fit_image`; None: all images must have one size.
        channels: 1 or 3, to convert to; None: all images must be grey, or all must be in colour.

    Raises:
        BadInputError: no class folders, no images, a file that is not an image, sizes or channels that differ.
    """

    def __init__(self, path: Path, *, resolution: int | None, channels: int | None):
        self.path = path
        entries = sorted(path.iterdir())
        folders = [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        self._check_layout(folders, next((entry for entry in entries if _is_image(entry.name)), None))
        files = {folder: [os.path.join(folder, name) for name in _images_below(path / folder)] for folder in folders}
        self.names: list[str] = [name for folder in folders for name in files[folder]]
        if not self.names:
            raise BadInputError(f"{path} has class folders without images; they must hold {', '.join(SUFFIXES)} files")
        numbered = all(folder.isdecimal() for folder in folders)
        numbers = [int(folder) for folder in folders] if numbered else list(range(len(folders)))
        counts = [len(files[folder]) for folder in folders]
        self.labels: Indices = np.repeat(labels_of_numbers(f"{path}: folder names", numbers), counts)
        self.class_names: tuple[str, ...] | None = None if numbered else tuple(folders)
        empty = [folder for folder in folders if not files[folder]]
        self.notes: tuple[str, ...] = (f"{path}: no images in the class folders {some_of(empty)}",) if empty else ()
        self._resolution = resolution
        h, w, c = self._settle(self._kinds(), resolution, channels)
        self.shape: tuple[int, int, int, int] = (len(self.names), h, w, c)

    def _check_layout(self, folders: list[str], beside: Path | None) -> None:
        if beside is not None:
            where = "both in class folders and beside them" if folders else "but no class folders, so no classes"
            raise BadInputError(
                f"{self.path} has images ({beside.name}) {where}; put each into the folder of its class"
            )
        if not folders:
            raise BadInputError(
                f"{self.path} holds no class folders of images, npz batches or IDX files; "
                "give the folder that holds a folder for each class"
            )
        if set(folders) <= _SPLITS:
            split = next((folder for folder in folders if folder.startswith("train")), folders[0])
            raise BadInputError(
                f"{self.path} holds {some_of(folders)}, which look like splits, not classes; give {self.path / split}"
            )

    def _kinds(self) -> dict[_Kind, str]:
        """Read all headers and return every kind of image with its first file; in threads, because disks are slow."""

        def kinds_of(names: Sequence[str]) -> dict[_Kind, str]:
            kinds: dict[_Kind, str] = {}
            for name in names:
                with self._open(name) as image:
                    kinds.setdefault((image.height, image.width, channels_of(image)), name)
            return kinds

        tasks = [self.names[i : i + _HEADERS_A_TASK] for i in range(0, len(self.names), _HEADERS_A_TASK)]
        kinds: dict[_Kind, str] = {}
        with ThreadPoolExecutor(8) as threads:
            try:
                for found in threads.map(kinds_of, tasks):
                    for kind, name in found.items():
                        kinds.setdefault(kind, name)
            except BadInputError:
                threads.shutdown(cancel_futures=True)
                raise
        return kinds

    def _settle(self, kinds: dict[_Kind, str], resolution: int | None, channels: int | None) -> tuple[int, int, int]:
        """Height, width and channels of all images."""
        file = next((name for (_, _, c), name in kinds.items() if c is None), None)
        if file is not None:
            raise BadInputError(f"{self.path / file} has more than 8 bits a channel; convert it to an 8-bit image")
        by_size = {(h, w): name for (h, w, _), name in kinds.items()}
        by_channels = {c: name for (_, _, c), name in kinds.items() if c is not None}
        if resolution is None and len(by_size) > 1:
            ((h1, w1), one), ((h2, w2), other) = list(by_size.items())[:2]
            raise BadInputError(
                f"{self.path / other} is {w2}x{h2}, {self.path / one} is {w1}x{h1}; resize all with --resolution"
            )
        if channels is None and len(by_channels) > 1:
            raise BadInputError(
                f"{self.path / by_channels[1]} is grey, {self.path / by_channels[3]} is coloured; "
                "convert all with --channels 1 or 3"
            )
        h, w = next(iter(by_size)) if resolution is None else (resolution, resolution)
        return h, w, channels or next(iter(by_channels))

    def _open(self, name: str) -> Image.Image:
        if not (self.path / name).is_file():  # opening a pipe would wait for its writer
            raise BadInputError(f"{self.path / name} is not a file; remove it")
        try:
            return Image.open(self.path / name, formats=_FORMATS)
        except Image.DecompressionBombError as e:
            raise too_large(str(self.path / name)) from e
        except Exception as e:  # Pillow's plugins raise many kinds of errors for a mislabelled file
            raise BadInputError(f"{self.path / name} is not a readable image ({_why(e)}); repair or remove it") from e

    def read(self, indices: Indices) -> Pixels:
        """Images uint8 [n, H, W, C] at `indices` [n]."""
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for row, i in enumerate(indices):
            name = self.names[int(i)]
            with self._open(name) as image:
                try:
                    out[row] = fit_image(image, self._resolution, self.shape[3])
                except Exception as e:  # as in `_open`
                    raise BadInputError(f"{self.path / name} is damaged ({_why(e)}); repair or remove it") from e
        return out


def _why(e: Exception) -> str:
    return "not a PNG, JPEG, WebP or BMP" if isinstance(e, UnidentifiedImageError) else str(e)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _images_below(folder: Path) -> list[str]:
    """Paths of image files relative to `folder`, sorted, links followed."""
    found = []
    for place, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        found += [os.path.relpath(os.path.join(place, name), folder) for name in names if _is_image(name)]
    return sorted(found)


def some_of(names: Sequence[str]) -> str:
    """The first five names and the number of others, for a message."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class SampleData:
    """The engine's set of PNGs (a zip file, or a folder with a ``dataset.json``) with labels, as an `ImageData`.

    Raises:
        BadInputError: it has no labels.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, samples: SampleSet):
        if samples.labels is None:
            raise BadInputError(
                f"{samples.path} has no labels; put its images into class folders or add a dataset.json"
            )
        self.path, self.shape, self.labels = samples.path, samples.shape, samples.labels
        self.class_names = samples.label_names
        self._samples = samples
        self._one_at_a_time = Lock()  # a zip file has one read position

    def read(self, indices: Indices) -> Pixels:
        """Images uint8 [n, H, W, C] at `indices` [n]."""
        with self._one_at_a_time:
            return self._samples.read(indices)
