"""Images from an array, with the channels and the size that a user asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from .options import ReadOptions

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Fitting:
    """Converts batches of an array's images.

    Args:
        name: the set, for messages.
        shape: (N, H, W, C) of the array.
        options: `channels`, `luma` and `resize`.

    Attributes:
        shape: (N, H, W, C) of what `__call__` gives. Colour images stay so for a grey model, unless `luma` is set: a check
            of the whole set refuses them.
        notes: what is done, one sentence each.
    """

    def __init__(self, name: str, shape: tuple[int, ...], options: ReadOptions):
        n, h, w, c = shape
        self._name, self._options, self._side = name, options, options.resize
        self._channels = options.channels is not None and options.channels != c and (c == 1 or options.luma)
        said = []
        if self._channels:
            said.append("grey repeated to RGB" if c == 1 else "colour converted to grey (ITU-R 601 luma)")
            c = 4 - c
        if self._side is not None and (h, w) != (self._side, self._side):
            from .decode import resized

            said.append(resized(self._side))
            h = w = self._side
        else:
            self._side = None
        self.notes: tuple[str, ...] = tuple(f"{n:,} images: {sentence}" for sentence in said)
        self.shape: tuple[int, int, int, int] = (n, h, w, c)

    def __call__(self, pixels: Pixels) -> Pixels:
        """Images uint8 [n, H, W, C], converted."""
        if self._channels:
            from .decode import with_channels

            pixels, _ = with_channels(pixels, self._name, self._options)
        if self._side is not None:
            from .resize import resize

            pixels = np.stack([resize(image, self._side) for image in pixels])
        return pixels
