"""Sets of arrays, resized and with the channels that the read options ask for; image files are decoded so from the start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .base import SampleSet
from .notes import Notes
from .options import ReadOptions

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
_AT_A_TIME = 256


class Fitted:
    """A `SampleSet` whose images are those of another, resized or with other channels.

    Args:
        samples: the other set.
        options: `resize` and `channels` are used.

    Raises:
        BadInputError: an image is in colour and the model takes grey ones.
    """

    def __init__(self, samples: SampleSet, options: ReadOptions):
        self.samples, self._options = samples, options
        self.path: Path = samples.path
        self.kind, self.labels, self.label_names = samples.kind, samples.labels, samples.label_names
        self.label_source = samples.label_source
        n, h, w, c = samples.shape
        side = options.resize
        self.shape: tuple[int, int, int, int] = (n, side or h, side or w, options.channels or c)
        self.notes: tuple[str, ...] = (*samples.notes, *self._said())

    def _said(self) -> tuple[str, ...]:
        """What is done to the images."""
        from .decode import with_channels
        from .resize import resized

        n, h, w, c = self.samples.shape
        if self._options.channels == 1 and c == 3:  # whether they are grey, only all their pixels show
            notes = Notes()
            for start in range(0, n, _AT_A_TIME):
                for i, image in enumerate(self.samples.read(np.arange(start, min(start + _AT_A_TIME, n))), start):
                    notes.add_all(with_channels(image, f"{self.path}: image {i}", self._options)[1], f"image {i}")
            lines = notes.lines()
        else:
            _, said = with_channels(np.zeros((1, 1, c), np.uint8), "", self._options)
            lines = tuple(f"{n:,} images: {sentence}" for sentence in said)
        if self.shape[1:3] != (h, w):
            lines += (f"{n:,} images: {resized(self.shape[1])}",)
        return lines

    @property
    def fingerprint(self) -> str:
        """As the other set's, and how it is read."""
        return self._options.apply_to(self.samples.fingerprint)

    def read(self, indices: np.ndarray[Any, Any]) -> Pixels:
        """Images uint8 [len(indices), H, W, C] at ascending `indices`."""
        from .decode import with_channels
        from .resize import resize

        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for row, image in enumerate(self.samples.read(indices)):
            pixels, _ = with_channels(image, f"{self.path}: image {indices[row]}", self._options)
            out[row] = resize(pixels, self.shape[1]) if self._options.resize is not None else pixels
        return out


def fitted(samples: SampleSet, options: ReadOptions) -> SampleSet:
    """`samples` as `options` ask for; `samples` itself if it is so already."""
    _, h, w, c = samples.shape
    if options.resize in (None, h) and options.resize in (None, w) and options.channels in (None, c):
        return samples
    return Fitted(samples, options)


def original(samples: SampleSet | None) -> SampleSet | None:
    """The set as its file has it."""
    return samples.samples if isinstance(samples, Fitted) else samples
