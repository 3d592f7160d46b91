"""Sample sets as image files in a folder, a zip file or a tar file, sorted by path."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError, one_line
from jboost.engine.system.names import check_names

from .archives import open_container
from .classes import DATASET_JSON, common_folder, find_classes
from .containers import DAMAGE, FILE_LIMIT, folders_above
from .decode import FORMATS, REPEATED, decode, examine
from .listing import sort_files
from .notes import Notes
from .options import AS_IT_IS, ReadOptions

Shape = tuple[int, int, int]
_THREADS, _IMAGES_A_TASK = 8, 256
# Changes when the same files are decoded to other pixels than before, so that a run is not resumed with a mixture.
_DECODER = "decoded upright, 2"


class ImageSamples:
    """Image files in a folder or archive as a `SampleSet`; see `jboost.engine.samples.classes` for the labels.

    Opening reads every file's header. `read` decodes the rest; it is safe to call from several threads and takes indices
    in any order.

    Attributes:
        path, kind, shape, labels, label_names, label_source, notes: see `SampleSet`.
        names: the images' names in the folder or archive, with forward slashes.
        others: files that are neither images nor junk; an archive's output takes them over.
        empty: folders beside the class folders that hold nothing.

    Raises:
        BadInputError: there are no images, a file cannot be used, sizes differ and `options` do not say what to do, or labels
            are invalid or unclear.
    """

    def __init__(self, path: Path, options: ReadOptions = AS_IT_IS):
        self.path = path
        self._files = open_container(path)
        self.kind = self._files.kind
        found = sort_files(self._files.sizes, self._files.head)
        self.names: list[str] = list(found.images)
        self.others: list[str] = list(found.others)
        self._check_files(found.unread)
        # Folders of other files alone, such as logs/, say nothing about classes; empty ones do.
        folders = self._files.folders - (folders_above([*found.others, *found.unread]) - folders_above(self.names))
        base = common_folder(self.names, folders)
        dataset = f"{base}/{DATASET_JSON}" if base and f"{base}/{DATASET_JSON}" in self.others else DATASET_JSON
        if self.kind == "folder":  # whatever else lies there stays where it is
            self.others = [dataset] if dataset in self.others else []
            check_names(path, [*self.names, *self.others])
        shapes, notes = self._examine(options)
        self._options, self.shape = self._settle(shapes, options, notes)
        classes = find_classes(
            str(path),
            self.names,
            folders,
            (dataset, self._files.read(dataset)) if dataset in self.others else None,
            options.class_folders,
        )
        self.labels, self.label_names, self.label_source = classes.labels, classes.names, classes.source
        self.empty = classes.empty
        left_out = () if not found.unread else (f"{_unread(found.unread)} left out; convert to {FORMATS} to include",)
        self.notes: tuple[str, ...] = (*self._files.notes, *left_out, *notes.lines())

    def _check_files(self, unread: tuple[str, ...]) -> None:
        if not self.names:
            what = f"; it holds {_unread(unread)}; convert them to {FORMATS}" if unread else ""
            raise BadInputError(
                f"{self.path} holds no {FORMATS} files{what or '; give a samples.npz, or a folder, zip or tar of images'}"
            )
        sizes = self._files.sizes
        if huge := next((name for name in [*self.names, *self.others] if sizes[name] > FILE_LIMIT), None):
            raise BadInputError(
                f"{self.path}: {huge} has {sizes[huge]:,} bytes, at most {FILE_LIMIT:,} are read; leave it out of the set"
            )

    def _examine(self, options: ReadOptions) -> tuple[list[Shape], Notes]:
        """Every image's shape, by its header, and what is done to it; in threads, because disks are slow."""

        def examined(names: list[str]) -> list[tuple[Shape, tuple[str, ...]]]:
            found = []
            for name in names:
                with self._naming(name):
                    found.append(examine(self._files.source(name), name, options))
            return found

        tasks = [self.names[i : i + _IMAGES_A_TASK] for i in range(0, len(self.names), _IMAGES_A_TASK)]
        shapes, notes, names = [], Notes(), iter(self.names)
        with ThreadPoolExecutor(_THREADS) as threads:
            try:
                for part in threads.map(examined, tasks):
                    for shape, said in part:
                        shapes.append(shape)
                        notes.add_all(said, next(names))
            except BaseException:
                threads.shutdown(cancel_futures=True)
                raise
        return shapes, notes

    def _settle(
        self, shapes: list[Shape], options: ReadOptions, notes: Notes
    ) -> tuple[ReadOptions, tuple[int, int, int, int]]:
        """The options for all images, and the set's shape."""
        channels = max(c for _, _, c in shapes)
        if any(c != channels for _, _, c in shapes):  # no channels are asked for: grey images join those in colour
            options = replace(options, channels=channels)
            for name, (_, _, c) in zip(self.names, shapes, strict=True):
                if c != channels:
                    notes.add(REPEATED, name)
        height, width, _ = shapes[0]
        for name, (h, w, _) in zip(self.names, shapes, strict=True):
            if (h, w) != (height, width):
                remedy = "make them so" if options.resize_flag is None else f"resize them with {options.resize_flag} N"
                raise BadInputError(
                    f"{self._files.shown(name)} is {w}x{h}, {self.names[0]} is {width}x{height}; all must have one size: {remedy}"
                )
        return options, (len(shapes), height, width, channels)

    @contextmanager
    def _naming(self, name: str) -> Iterator[None]:
        """Say where the file `name` lies in messages that begin with its name."""
        try:
            yield
        except BadInputError as e:
            if not str(e).startswith(name):
                raise
            raise BadInputError(f"{self._files.shown(name)}{str(e)[len(name) :]}") from e
        except DAMAGE as e:
            raise BadInputError(f"{self._files.shown(name)} is damaged ({one_line(e)}); make or copy it again") from e

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the set's contents. It reads all of a folder, so it is made only when it is asked for."""
        contents = self._files.contents([*self.names, *self.others])
        labels = None if self.labels is None else self.labels.tolist()
        return self._options.apply_to(f"{contents} {_DECODER} {labels} {self.label_names}")

    def bytes_of(self, name: str) -> bytes:
        """The contents of one file of the set."""
        return self._files.read(name)

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at `indices`."""
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        unsaid = Notes()  # all was said when the set was opened
        for row, i in enumerate(indices):
            name = self.names[int(i)]
            with self._naming(name):
                pixels = decode(self._files.source(name), name, self._options, unsaid)
                if pixels.shape != self.shape[1:]:
                    raise BadInputError(f"{name} was changed since the set was opened; start again")
                out[row] = pixels
        return out

    def original(self, index: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """One image as `read` gives it, but not resized: uint8 [h, w, C]."""
        name = self.names[index]
        with self._naming(name):
            return decode(self._files.source(name), name, replace(self._options, resize=None), Notes())


def _unread(names: tuple[str, ...]) -> str:
    """What is said of images of kinds that are not read."""
    kinds = sorted(
        {"." + name.rpartition(".")[2].lower() if "." in name.rpartition("/")[2] else "no suffix" for name in names}
    )
    some = ", ".join(kinds[:4]) + (", ..." if len(kinds) > 4 else "")
    return f"{len(names):,} image{'s' if len(names) > 1 else ''} of kinds that are not read ({some}; first: {names[0]})"
