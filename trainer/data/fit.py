"""Convert the images of arrays to one size and one number of channels; image files are decoded so from the start."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.samples.decode import with_channels
from jboost.engine.samples.options import ReadOptions
from jboost.engine.samples.resize import resize, resized

from .base import ImageData, Indices, Pixels


def check_wish(path: Path, resolution: int | None, channels: int | None) -> None:
    """Check the requested resolution and channels.

    Raises:
        BadInputError: channels other than 1 and 3, or a resolution below 1.
    """
    if channels not in (None, 1, 3):
        raise BadInputError(f"{path}: images cannot be converted to {channels} channels; ask for 1 or 3")
    if resolution is not None and resolution < 1:
        raise BadInputError(f"{path}: images cannot be resized to {resolution} pixels; ask for at least 1")


class Fitted:
    """An `ImageData` that fits the images of another set as it reads them; see `jboost.engine.samples.resize`."""

    def __init__(self, data: ImageData, resolution: int | None, channels: int):
        self._data, self._resolution = data, resolution
        self._options = ReadOptions(channels=channels, luma=True)
        self.path, self.labels, self.class_names = data.path, data.labels, data.class_names
        self.label_source = data.label_source
        n, h, w, c = data.shape
        self.shape: tuple[int, int, int, int] = (n, resolution or h, resolution or w, channels)
        said = []
        if channels != c:
            said.append("grey repeated to RGB" if c == 1 else "colour converted to grey (ITU-R 601 luma)")
        if resolution is not None and (h, w) != (resolution, resolution):
            said.append(resized(resolution))
        self.notes = (*data.notes, *(f"{data.path}: {n:,} images: {what}" for what in said))

    def read(self, indices: Indices) -> Pixels:
        """Images uint8 [n, H, W, C] at `indices` [n]."""
        images = self._data.read(indices)
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for row, image in enumerate(images):
            pixels, _ = with_channels(image, str(self.path), self._options)
            out[row] = pixels if self._resolution is None else resize(pixels, self._resolution)
        return out

    def original(self, index: int) -> Pixels:
        """One image with the channels of `read`, at its own size: uint8 [h, w, C]."""
        return with_channels(self._data.original(index), str(self.path), self._options)[0]


def fitted(data: ImageData, resolution: int | None, channels: int | None) -> ImageData:
    """`data` at the requested resolution and channels; `data` itself if it has them already."""
    _, h, w, c = data.shape
    same_size = resolution is None or (h, w) == (resolution, resolution)
    if same_size and channels in (None, c):
        return data
    return Fitted(data, resolution, channels or c)
