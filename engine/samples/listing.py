"""Which files of a folder or archive belong to a set of images: one rule for every command and every kind of container."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

#: Suffixes of the image files that are read, in lower case.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp")
#: Suffixes of tar files.
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
#: Suffixes of image files that are not.
OTHER_IMAGES = frozenset({
    ".apng", ".arw", ".avif", ".cr2", ".dcm", ".dds", ".dib", ".dng", ".exr", ".gif", ".hdr", ".heic", ".heif", ".ico", ".j2k",
    ".jp2", ".jpx", ".jxl", ".nef", ".pbm", ".pcx", ".pgm", ".pnm", ".ppm", ".psd", ".qoi", ".raw", ".svg", ".tga", ".tif",
    ".tiff", ".xcf",
})  # fmt: skip
_JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini", "ehthumbs.db"})
#: How many bytes of a file `looks_like_image` needs.
HEAD = 16
_MAGIC = (
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"8BPS",
    b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"\xff\x0a", b"\0\0\0\x0cJXL ", b"v/1\x01", b"DDS ", b"qoif", b"#?RADIANCE",
)  # fmt: skip
_BRANDS = (b"heic", b"heix", b"heif", b"hevc", b"mif1", b"msf1", b"avif", b"avis")


def is_junk(name: str) -> bool:
    """Whether a file is one that systems and tools leave behind: ``.anything``, ``__MACOSX``, ``Thumbs.db``, ``desktop.ini``.

    Args:
        name: a path with forward slashes; a folder of such a name makes all that is in it junk.
    """
    return any(part.startswith(".") or part.lower() in _JUNK for part in name.split("/") if part)


def is_image_name(name: str) -> bool:
    """Whether a file is an image that is read, by its suffix, in any case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def looks_like_image(head: bytes) -> bool:
    """Whether a file is an image by its first `HEAD` bytes, of a kind that is read or not."""
    if head.startswith(_MAGIC):
        return True
    return (head[:4] == b"RIFF" and head[8:12] == b"WEBP") or (head[4:8] == b"ftyp" and head[8:12] in _BRANDS)


@dataclass(frozen=True)
class Listing:
    """The files of a container.

    Attributes:
        images: those that are read, sorted.
        unread: images of kinds that are not read, sorted.
        others: everything else but junk, sorted.
    """

    images: tuple[str, ...]
    unread: tuple[str, ...]
    others: tuple[str, ...]


def sort_files(names: Iterable[str], head: Callable[[str], bytes]) -> Listing:
    """Sort a container's files.

    Args:
        names: paths with forward slashes.
        head: gives the first `HEAD` bytes of a file.
    """
    images, unread, others = [], [], []
    for name in sorted(names):
        if is_junk(name):
            continue
        if is_image_name(name):
            images.append(name)
        elif PurePosixPath(name).suffix.lower() in OTHER_IMAGES or looks_like_image(head(name)):
            unread.append(name)
        else:
            others.append(name)
    return Listing(tuple(images), tuple(unread), tuple(others))
