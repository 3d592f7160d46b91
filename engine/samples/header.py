"""What an image file's header says, read without decoding the pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import ExifTags, Image

from jboost.engine.errors import BadInputError

#: Pillow's modes that are read, and whether they are grey.
_GREY = {
    "1": True, "L": True, "LA": True, "I;16": True, "I;16L": True, "I;16B": True,
    "RGB": False, "RGBA": False, "RGBX": False, "P": False, "PA": False, "CMYK": False,
}  # fmt: skip
# PNG may hold these behind the pixels, where Pillow sees them only once it has decoded.
_MAY_BE_LATE = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Header:
    """What is known of an image before its pixels are.

    Attributes:
        height, width: of the upright image.
        grey: whether it is grey by its mode.
        transparent: whether pixels may be transparent.
        orientation: EXIF's, 1 to 8.
        said: what decoding it does, a sentence each.
    """

    height: int
    width: int
    grey: bool
    transparent: bool
    orientation: int
    said: tuple[str, ...]


def read_header(image: Image.Image, data: bytes | Path, name: str) -> Header:
    """Read the header of an open image.

    Args:
        image: opened, its pixels not read yet.
        data: its bytes or file.
        name: its name, for messages.

    Raises:
        BadInputError: it has several frames, or a mode that is not read.
    """
    said = []
    if (frames := getattr(image, "n_frames", 1)) > 1:
        if image.format != "MPO":  # of which every viewer shows the first picture
            raise BadInputError(
                f"{name} is animated ({frames} frames); save the frame that you mean as an image of its own"
            )
        said.append("first picture of several taken (MPO)")
    if image.mode not in _GREY:
        raise BadInputError(
            f"{name} has the pixel format {image.mode}, which jboost does not read; save it as an 8-bit PNG"
        )
    grey = _GREY[image.mode] or packed(image) == "LA;16B"
    if image.mode == "1":
        said.append("1 bit scaled to 8 bits (0 and 255)")
    elif is_deep(image):
        said.append("16 bits scaled to 8 bits")
    elif image.mode in ("P", "PA"):
        said.append("palette converted to RGB")
    elif image.mode == "CMYK":
        said.append("CMYK converted to RGB, without its colour profile")
    transparent = image.has_transparency_data
    width, height = image.size
    orientation = _orientation(image, data, said)
    if orientation in _SIDEWAYS:
        width, height = height, width
    if orientation != 1:
        said.append("turned upright, as its EXIF data says")
    if image.mode != "CMYK" and _has_other_profile(image):
        said.append("colour profile ignored, values read as sRGB")
    return Header(height, width, grey, transparent, orientation, tuple(said))


def packed(image: Image.Image) -> str:
    """How a PNG's pixels lie in the file, in Pillow's words, e.g. ``"RGB;16B"``; otherwise ``""``."""
    if image.format != "PNG" or not getattr(image, "tile", None):
        return ""
    args = image.tile[0].args  # type: ignore[attr-defined]
    return args if isinstance(args, str) else ""


def is_deep(image: Image.Image) -> bool:
    """Whether an image has 16 bits a channel; ask before its pixels are read."""
    return image.mode.startswith("I;16") or packed(image).endswith(";16B")


def _orientation(image: Image.Image, data: bytes | Path, said: list[str]) -> int:
    """EXIF's orientation, 1 to 8."""
    try:
        if image.format != "PNG":
            found = image.getexif().get(ExifTags.Base.Orientation, 1)
        else:
            content = data if isinstance(data, bytes) else data.read_bytes()
            if not any(mark in content for mark in _MAY_BE_LATE):
                return 1
            with Image.open(io.BytesIO(content), formats=["PNG"]) as other:  # `image` must stay unread
                other.load()
                found = other.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # viewers pass over damaged EXIF data; damaged pixels are found when they are read
        said.append("damaged EXIF data passed over")
        return 1
    return found if found in range(1, 9) else 1


def _has_other_profile(image: Image.Image) -> bool:
    """Whether an embedded colour profile is not sRGB's, by its description."""
    profile = image.info.get("icc_profile")
    return isinstance(profile, bytes) and bool(profile) and b"sRGB" not in profile.replace(b"\0", b"")
