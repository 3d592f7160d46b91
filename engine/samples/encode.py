"""The encoder of image files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from .naming import LOSSY, LOSSY_QUALITY

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def encode(image: Pixels, suffix: str = ".png") -> bytes:
    """One image uint8 [H, W, C] as the bytes of a PNG; of a JPEG if `suffix` is one of `LOSSY`."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if suffix in LOSSY:
        picture.save(buffer, "JPEG", quality=LOSSY_QUALITY, subsampling=0)
    else:
        picture.save(buffer, "PNG")
    return buffer.getvalue()


def singly(batches: Iterator[Pixels]) -> Iterator[Pixels]:
    """The images [H, W, C] of batches [n, H, W, C]."""
    return (image for batch in batches for image in batch)
