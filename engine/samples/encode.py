"""The one encoder of image files, and the names that they get."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from jboost.engine.errors import BadInputError
from jboost.engine.system.names import check_names

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
#: Suffixes whose format cannot keep pixels as they are.
LOSSY = (".jpg", ".jpeg")
#: How such an image is written with ``--lossy``: fine, and without halving the colours' resolution.
LOSSY_QUALITY = 95
LOSSY_TEXT = f"JPEG, quality {LOSSY_QUALITY}, 4:4:4"
_LOSSLESS = {".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"}


def encode(image: Pixels, suffix: str = ".png") -> bytes:
    """One image uint8 [H, W, C] as the bytes of a file with `suffix`; only the suffixes `LOSSY` change its pixels."""
    suffix = suffix.lower()
    buffer = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if suffix in LOSSY:
        picture.save(buffer, "JPEG", quality=LOSSY_QUALITY, subsampling=0)
    elif suffix == ".webp":
        picture.save(buffer, "WEBP", lossless=True)
    else:
        picture.save(buffer, _LOSSLESS[suffix])
    return buffer.getvalue()


def suffix_of(name: str) -> str:
    """A file name's suffix in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def output_name(name: str, channels: int, *, lossy: bool) -> str:
    """The name under which an image is written: its own, or with ``.png`` where its format would change the pixels.

    Args:
        name: the image's name in the source.
        channels: 1 or 3. WebP has no grey images, so they become PNGs.
        lossy: whether JPEGs stay JPEGs.
    """
    suffix = suffix_of(name)
    keeps = suffix in _LOSSLESS and (suffix != ".webp" or channels == 3)
    if keeps or (lossy and suffix in LOSSY):
        return name
    return name[: len(name) - len(suffix)] + ".png"


def output_names(names: Sequence[str], channels: int, *, lossy: bool) -> list[str]:
    """`output_name` of each of a set's names, which stay different.

    Raises:
        BadInputError: two would be the same.
    """
    made = [output_name(name, channels, lossy=lossy) for name in names]
    if made != list(names):
        by_name: dict[str, str] = {}
        for name, new in zip(names, made, strict=True):
            if (other := by_name.setdefault(new.casefold(), name)) != name:
                raise BadInputError(
                    f"{other} and {name} would both be written as {new}; write to another kind of file, such as -o out.npz"
                )
    return made


def numbered(count: int, suffix: str = ".png") -> list[str]:
    """Names, in order, for a set without names: ``000000.png`` and so on."""
    width = max(6, len(str(count - 1)))
    return [f"{i:0{width}d}{suffix}" for i in range(count)]


def sorted_names(names: Sequence[str] | None, count: int) -> list[str]:
    """`names` if files of these names, sorted by path, come in this order; else numbers.

    A folder or zip is read in that order, so names that are sorted otherwise would change the images' order.
    """
    if names is None or list(names) != sorted(names):
        return numbered(count)
    try:
        check_names("the output", names)
    except BadInputError:
        return numbered(count)
    return list(names)


def singly(batches: Iterator[Pixels]) -> Iterator[Pixels]:
    """The images [H, W, C] of batches [n, H, W, C]."""
    return (image for batch in batches for image in batch)
