"""Several files of one kind as one set, in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError

from .base import SampleSet


class Several:
    """Files of one kind as a `SampleSet`: the images of the first, then those of the second, and so on.

    Every file is opened. Its images are read as needed.

    Args:
        path: what the user called them, for messages.
        files: the files in order.
        open_one: opens a file.

    Raises:
        BadInputError: a file cannot be used; or the files differ in the images' size, or some have labels and others none.
    """

    def __init__(self, path: Path, files: Sequence[Path], open_one: Callable[[Path], SampleSet]):
        self.path = path
        self.parts = [open_one(file) for file in files]
        first = self.parts[0]
        for part in self.parts:
            if part.shape[1:] != first.shape[1:]:
                raise BadInputError(
                    f"{part.path} has images {list(part.shape[1:])}, {first.path} {list(first.shape[1:])}; keep sets of different "
                    "sizes apart, or resize the images: --resize N"
                )
            if (part.labels is None) != (first.labels is None):
                one, other = (part, first) if part.labels is None else (first, part)
                raise BadInputError(
                    f"{one.path} has no labels, but {other.path} has; give every file labels, or none: --labels-key none"
                )
        self.kind = first.kind
        self._ends = np.cumsum([part.shape[0] for part in self.parts])
        self.shape: tuple[int, int, int, int] = (int(self._ends[-1]), *first.shape[1:])
        self.label_source = first.label_source
        self.labels, self.label_names = self._labels()
        self.notes: tuple[str, ...] = tuple(f"{part.path.name}: {note}" for part in self.parts for note in part.notes)

    def _labels(self) -> tuple[np.ndarray[Any, np.dtype[np.int64]] | None, tuple[str, ...] | None]:
        labels = [part.labels for part in self.parts if part.labels is not None]
        if not labels:
            return None, None
        named = [part.label_names for part in self.parts if part.label_names is not None]
        if len(named) not in (0, len(self.parts)):
            raise BadInputError(f"{self.path}: some files name their classes, others number them; do the same in each")
        if not named or all(names == named[0] for names in named):
            return np.concatenate(labels), named[0] if named else None
        names = tuple(sorted({name for own in named for name in own}))
        at = {name: i for i, name in enumerate(names)}
        moved = [np.array([at[n] for n in own], np.int64)[part] for own, part in zip(named, labels, strict=True)]
        return np.concatenate(moved), names

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the files' fingerprints."""
        return hashlib.sha256(" ".join(part.fingerprint for part in self.parts).encode()).hexdigest()

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at ascending `indices`."""
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        of = np.searchsorted(self._ends, indices, side="right")
        for which in np.unique(of):
            start = 0 if which == 0 else int(self._ends[which - 1])
            out[of == which] = self.parts[which].read(indices[of == which] - start)
        return out
