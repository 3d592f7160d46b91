"""Resizing, the way the field resizes images for generators."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

_PROTOCOL = "as ADM's center_crop_arr: halved by averaging, then bicubic, then the centre"


def resized(side: int) -> str:
    """What is said of an image that was resized."""
    return f"resized to {side}x{side} ({_PROTOCOL})"


def resize(pixels: Pixels, side: int) -> Pixels:
    """Resize one image uint8 [H, W, C], C = 1 or 3, to uint8 [side, side, C].

    The image is halved by averaging while its shorter side is at least twice as long. It is then resized bicubically
    (Pillow, antialiased) until that side fits, and cropped around the centre. ADM's ImageNet was made in the same way
    (Dhariwal and Nichol, arXiv 2105.05233: ``center_crop_arr`` of guided-diffusion).
    """
    if pixels.shape[:2] == (side, side):
        return pixels
    grey = pixels.shape[2] == 1
    image = Image.fromarray(pixels[..., 0] if grey else pixels)
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    small: Pixels = np.asarray(image)[top : top + side, left : left + side]
    return small[..., None] if grey else small
