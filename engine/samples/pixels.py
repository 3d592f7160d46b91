"""The pixels of an open image as arrays, at the file's own depth, without loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .header import is_deep, packed

Array = np.ndarray[Any, Any]
# What a PNG's grey values of few bits are multiplied with. Pillow scales the pixels, but of one bit alone the transparent value.
_FEW_BITS = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True)
class Raw:
    """Pixels at the file's own depth.

    Attributes:
        colours: uint8 or uint16 [H, W, C], C = 1 or 3.
        alpha: the same dtype [H, W]; None: the file has no transparency.
        top: the value of white: 255 or 65535.
    """

    colours: Array
    alpha: Array | None
    top: int


def to_8_bits(values: Array, top: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Values in 0 .. `top` as uint8, scaled and rounded; the field's usual v >> 8 is off by up to one level."""
    if top == 255:
        return values.astype(np.uint8)
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 257 = 65535 / 255


def raw_pixels(image: Image.Image) -> Raw:
    """Decode an image whose header `read_header` has read; whatever is wrong with it, Pillow's error says."""
    transparent = image.info.get("transparency")
    if is_deep(image):
        colours, alpha = _deep(image)
        return Raw(colours, _without(colours, transparent) if alpha is None else alpha, 65535)
    if image.mode in ("1", "L"):
        scale = _FEW_BITS.get(packed(image), 1)
        colours = np.asarray(image.convert("L"))[..., None]
        return Raw(colours, _without(colours, None if transparent is None else transparent * scale), 255)
    if image.mode == "LA":
        both = np.asarray(image)
        return Raw(both[..., :1], both[..., 1], 255)
    if image.mode == "RGB":
        colours = np.asarray(image)
        return Raw(colours, _without(colours, transparent), 255)
    if image.has_transparency_data:  # RGBA, PA and palettes
        rgba = np.asarray(image.convert("RGBA"))
        return Raw(rgba[..., :3], rgba[..., 3], 255)
    return Raw(np.asarray(image.convert("RGB")), None, 255)


def _without(colours: Array, transparent: Any) -> Array | None:
    """The alpha channel for one transparent colour, in the file's own values; None without one."""
    if transparent is None:
        return None
    top = np.iinfo(colours.dtype).max
    return np.where((colours == np.array(transparent)).all(-1), 0, top).astype(colours.dtype)


def _deep(image: Image.Image) -> tuple[Array, Array | None]:
    """16-bit colours and alpha, uint16.

    Pillow keeps 16 bits of a grey image only. Of the others it takes the high bytes; asked for little-endian values, it
    takes the low bytes of the file's big-endian ones.
    """
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16)[..., None], None
    kind = packed(image)
    if kind == "LA;16B":  # four bytes a pixel, read as if they were red, green, blue and alpha
        four = _repacked(image, "RGBA").astype(np.uint16)
        return (four[..., 0] << 8 | four[..., 1])[..., None], four[..., 2] << 8 | four[..., 3]
    low = _repacked(image, kind.replace("16B", "16L")).astype(np.uint16)
    high = _repacked(image, kind).astype(np.uint16)
    both = high << 8 | low
    return both[..., :3], both[..., 3] if both.shape[2] == 4 else None


def _repacked(image: Image.Image, kind: str) -> Array:
    """The pixels of another reading of the same file, as if they were packed as `kind` says."""
    fp = image.fp  # type: ignore[attr-defined]
    fp.seek(0)
    with Image.open(fp, formats=["PNG"]) as again:
        again.tile = [tile._replace(args=kind) for tile in again.tile]
        return np.array(again)
