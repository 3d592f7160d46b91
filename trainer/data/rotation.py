"""Random rotations: torchvision's RandomRotation at its defaults (nearest pixel, black corners)."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def angle(degrees: float, word: int) -> float:
    """An angle uniform in [-degrees, degrees), from a random word in [0, 2^32)."""
    return degrees * (word / 2**31 - 1.0)


def rotated(pixels: Pixels, degrees: float) -> Pixels:
    """Rotate one image uint8 [H, W, C], C = 1 or 3, counter-clockwise around its centre; its size stays the same."""
    grey = pixels.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0] if grey else pixels))
    turned: Pixels = np.asarray(image.rotate(degrees, Image.Resampling.NEAREST))
    return turned[..., None] if grey else turned
