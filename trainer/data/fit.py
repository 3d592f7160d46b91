"""Convert images to one size and one number of channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from jboost.engine.errors import BadInputError

from .base import ImageData, Indices, Pixels

_MODES = {1: "L", 3: "RGB"}
_GREY = frozenset({"1", "L", "LA", "La"})
_COLOUR = frozenset({"RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV"})


def channels_of(image: Image.Image) -> int | None:
    """1 for a grey image, 3 for a colour image, None if 8 bits would clip it (16-bit and float images)."""
    return 1 if image.mode in _GREY else 3 if image.mode in _COLOUR else None


def fit_image(image: Image.Image, resolution: int | None, channels: int) -> Pixels:
    """Convert one image to uint8 [H, W, C].

    With a resolution, the image is halved by averaging while its shorter side is at least twice as long. It is then
    resized bicubically until that side fits, and cropped around the centre. ADM's ImageNet was made in the same way
    (Dhariwal and Nichol, ``center_crop_arr``).
    """
    image = image.convert(_MODES[channels])
    if resolution is not None and image.size != (resolution, resolution):
        while min(image.size) >= 2 * resolution:
            image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
        scale = resolution / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - resolution) // 2, (image.height - resolution) // 2
        image = image.crop((left, top, left + resolution, top + resolution))
    pixels = np.asarray(image)
    return pixels if channels == 3 else pixels[..., None]


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
    """An `ImageData` that fits the images of another set as it reads them."""

    def __init__(self, data: ImageData, resolution: int | None, channels: int):
        self._data, self._resolution, self._channels = data, resolution, channels
        self.path, self.labels, self.class_names, self.notes = data.path, data.labels, data.class_names, data.notes
        n, h, w, _ = data.shape
        self.shape: tuple[int, int, int, int] = (n, resolution or h, resolution or w, channels)

    def read(self, indices: Indices) -> Pixels:
        """Images uint8 [n, H, W, C] at `indices` [n]."""
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for row, image in enumerate(self._data.read(indices)):
            grey = image.shape[2] == 1
            out[row] = fit_image(Image.fromarray(image[..., 0] if grey else image), self._resolution, self._channels)
        return out


def fitted(data: ImageData, resolution: int | None, channels: int | None) -> ImageData:
    """`data` at the requested resolution and channels; `data` itself if it has them already."""
    _, h, w, c = data.shape
    same_size = resolution is None or (h, w) == (resolution, resolution)
    if same_size and channels in (None, c):
        return data
    return Fitted(data, resolution, channels or c)
