"""Random crops of another size and shape, resized to one size: torchvision's RandomResizedCrop at its defaults.

Each crop covers 8 to 100% of the image's area, with an aspect ratio of 3/4 to 4/3. The draws come from the engine's
counter-based generator, keyed by the seed and the image's position in the global order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jboost.engine.method.noise import philox, split_seed

from .order import Stream

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
_TRIES = 10
# Of images longer than 17 times their shorter side only the middle is ever cropped: the smallest area does not fit.
_LONGEST = 32
_WORD, _MASK32 = 2**32, 0xFFFFFFFF


class Box(NamedTuple):
    """A crop: its first row and column, its height and width, in pixels."""

    top: int
    left: int
    height: int
    width: int


def choose_box(height: int, width: int, draw: Callable[[int], tuple[int, int, int, int]]) -> Box:
    """Choose a crop of an image of `height` x `width`.

    Args:
        height, width: at least 1.
        draw: try number -> four random words in [0, 2^32), for the area, the aspect ratio, the row and the column.

    Returns:
        The first of ten tries that fits in the image. If none does, the largest crop around the centre whose aspect
        ratio is allowed.
    """
    for attempt in range(_TRIES):
        area, ratio, top, left = draw(attempt)
        wanted = height * width * _between(*SCALE, area)
        aspect = math.exp(_between(math.log(RATIO[0]), math.log(RATIO[1]), ratio))
        w, h = round(math.sqrt(wanted * aspect)), round(math.sqrt(wanted / aspect))
        if 0 < w <= width and 0 < h <= height:
            return Box(top * (height - h + 1) // _WORD, left * (width - w + 1) // _WORD, h, w)
    h = min(height, round(width / RATIO[0]))
    w = min(width, round(height * RATIO[1]))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def _between(low: float, high: float, word: int) -> float:
    return low + (high - low) * (word / _WORD)


def words_of(seed: int, position: int) -> Callable[[int], tuple[int, int, int, int]]:
    """The random words of the image at a position of the global order, by the number of the try."""

    def draw(attempt: int) -> tuple[int, int, int, int]:
        counter = (np.int64(position & _MASK32), np.int64(position >> 32), np.int64(attempt), np.int64(Stream.CROP))
        first, second, third, fourth = philox(counter, split_seed(seed))
        return int(first), int(second), int(third), int(fourth)

    return draw


def resized_crop(pixels: Pixels, box: Box, side: int) -> Pixels:
    """Crop one image uint8 [h, w, C], C = 1 or 3, and resize the crop bilinearly (antialiased) to [side, side, C]."""
    return _bilinear(pixels[box.top : box.top + box.height, box.left : box.left + box.width], side, side)


def resized(pixels: Pixels, side: int) -> Pixels:
    """Resize one image uint8 [h, w, C], C = 1 or 3, as torchvision's Resize: its shorter side gets `side` pixels.

    Of an image longer than 32 times its shorter side only the middle is kept, so that memory is bounded.
    """
    height, width = pixels.shape[:2]
    most = _LONGEST * min(height, width)
    if max(height, width) > most:
        top, left = max(0, height - most) // 2, max(0, width - most) // 2
        pixels = pixels[top : top + most, left : left + most]
        height, width = pixels.shape[:2]
    if height <= width:
        return _bilinear(pixels, side, side * width // height)
    return _bilinear(pixels, side * height // width, side)


def _bilinear(pixels: Pixels, height: int, width: int) -> Pixels:
    grey = pixels.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels))
    small: Pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return small[..., None] if grey else small
