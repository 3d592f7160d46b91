"""The one decoder of image files: PNG, JPEG, WebP and BMP to uint8 [H, W, C] with 1 or 3 channels, as a viewer shows them.

Every conversion is counted in `Notes`. Where a file leaves a choice, it is refused until an option settles it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from jboost.engine.errors import BadInputError, one_line

from .header import Header, read_header
from .notes import Notes
from .options import ReadOptions
from .pixels import Raw, raw_pixels, to_8_bits
from .resize import resize, resized

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Shape = tuple[int, int, int]
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
#: What the formats are called in messages.
FORMATS = "PNG, JPEG, WebP or BMP"
REPEATED = "grey repeated to RGB"
_EQUAL = "RGB with three equal channels read as grey"
_LUMA = "colour converted to grey (ITU-R 601 luma)"
_OPAQUE = "opaque alpha channel dropped"
# ITU-R 601, as Pillow's convert("L") has it.
_LUMA_WEIGHTS = (19595, 38470, 7471)
# How an upright array [H, W, ...] is made of one with EXIF's orientation.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def decode(data: bytes | Path, name: str, options: ReadOptions, notes: Notes) -> Pixels:
    """Decode one image to uint8 [H, W, C].

    Args:
        data: the file's bytes, or the file.
        name: the file's name; messages begin with it.
        options: see `ReadOptions`.
        notes: takes what was done.

    Raises:
        BadInputError: the file is damaged or of another kind, has transparent pixels and no background is given, is in
            colour for a grey model, has several frames or too many pixels.
    """
    with _opened(data, name) as image:
        pixels, said = _finished(image, read_header(image, data, name), name, options)
    notes.add_all(said, name)
    return pixels


def probe(data: bytes | Path, name: str, options: ReadOptions) -> Shape:
    """The shape (H, W, C) that `decode` gives.

    It comes from the file's header, except for images that may be transparent or are in colour for a grey model.

    Raises:
        BadInputError: see `decode`; damage behind the header is not found.
    """
    return examine(data, name, options)[0]


def examine(data: bytes | Path, name: str, options: ReadOptions) -> tuple[Shape, tuple[str, ...]]:
    """As `probe`, with what `decode` would add to its notes."""
    with _opened(data, name) as image:
        header = read_header(image, data, name)
        if header.transparent or (options.channels == 1 and not header.grey):
            pixels, said = _finished(image, header, name, options)
            height, width, channels = pixels.shape
            return (height, width, channels), said
    said = header.said
    channels = 1 if header.grey else 3
    if channels == 1 and options.channels == 3:
        channels = 3
        said += (REPEATED,)
    height, width = header.height, header.width
    if options.resize is not None and (height, width) != (options.resize, options.resize):
        height = width = options.resize
        said += (resized(options.resize),)
    return (height, width, channels), said


def too_large(name: str) -> BadInputError:
    """The error for an image whose header claims more pixels than Pillow decodes."""
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    return BadInputError(
        f"{name} is too large: its header claims more than {limit:,} pixels, the limit; remove it, or resize it"
    )


@contextmanager
def _opened(data: bytes | Path, name: str) -> Iterator[Image.Image]:
    """The image, its pixels not read yet; whatever goes wrong with it becomes a `BadInputError`."""
    try:
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=_FORMATS)
        with image:
            yield image
    except BadInputError:
        raise
    except Image.DecompressionBombError as e:
        raise too_large(name) from e
    except UnidentifiedImageError as e:
        raise BadInputError(f"{name} is not a readable image (not a {FORMATS}); repair or remove it") from e
    except Exception as e:  # Pillow's plugins raise many kinds of errors for a damaged file
        raise BadInputError(
            f"{name} is not a readable image: it is damaged ({one_line(e)}); repair or remove it"
        ) from e


def _finished(image: Image.Image, header: Header, name: str, options: ReadOptions) -> tuple[Pixels, tuple[str, ...]]:
    """The pixels as `options` ask for them, and what was done."""
    raw = raw_pixels(image)
    pixels, said = _opaque(raw, name, options.background)
    if header.orientation != 1:
        pixels = _UPRIGHT[header.orientation](pixels)
    pixels, also = with_channels(pixels, name, options)
    said = (*header.said, *said, *also)
    if options.resize is not None and pixels.shape[:2] != (options.resize, options.resize):
        pixels = resize(pixels, options.resize)
        said += (resized(options.resize),)
    return np.ascontiguousarray(pixels), said


def _opaque(raw: Raw, name: str, background: tuple[int, int, int] | None) -> tuple[Pixels, tuple[str, ...]]:
    """8-bit pixels without transparency, and what was done about it."""
    if raw.alpha is None:
        return to_8_bits(raw.colours, raw.top), ()
    if to_8_bits(raw.alpha, raw.top).min() == 255:
        return to_8_bits(raw.colours, raw.top), (_OPAQUE,)
    if background is None:
        raise BadInputError(
            f"{name} has transparent pixels; name the colour behind them, e.g. --background white, or save it without "
            "transparency"
        )
    behind = np.array(background, np.float64) * (raw.top / 255)
    if raw.colours.shape[2] == 1 and len(set(background)) == 1:
        behind = behind[:1]
    share = raw.alpha[..., None] / raw.top
    mixed = raw.colours * share + behind * (1 - share)
    shown = "#" + "".join(f"{value:02x}" for value in background)
    return np.rint(mixed * (255 / raw.top)).astype(np.uint8), (f"transparent pixels laid over {shown}",)


def with_channels(pixels: Pixels, name: str, options: ReadOptions) -> tuple[Pixels, tuple[str, ...]]:
    """Images uint8 [..., C] with the channels that `options` ask for, and what was done.

    Raises:
        BadInputError: they are in colour and the model takes grey ones.
    """
    if options.channels in (None, pixels.shape[-1]):
        return pixels, ()
    if options.channels == 3:
        return np.repeat(pixels, 3, axis=-1), (REPEATED,)
    if (pixels == pixels[..., :1]).all():
        return pixels[..., :1], (_EQUAL,)
    if not options.luma:
        raise BadInputError(
            f"{name} is in colour and the model takes grey images; convert it with PIL's "
            "Image.convert('RGB').convert('L'), or use a model for colour images"
        )
    grey = (pixels.astype(np.uint32) @ np.array(_LUMA_WEIGHTS, np.uint32) + 0x8000) >> 16
    return grey.astype(np.uint8)[..., None], (_LUMA,)
