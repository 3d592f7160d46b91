"""The names that a set's images get in an output, and which of them are lossy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from jboost.engine.errors import BadInputError
from jboost.engine.system.names import check_names

from .base import SampleSet

#: Suffixes whose format changes pixels.
LOSSY = (".jpg", ".jpeg", ".jpe", ".jfif")
#: How such images are written with ``--lossy``: fine, and with colours in full resolution.
LOSSY_QUALITY = 95
LOSSY_TEXT = f"JPEG, quality {LOSSY_QUALITY}, 4:4:4"


def suffix_of(name: str) -> str:
    """A file name's suffix in lower case, with its dot."""
    return PurePosixPath(name).suffix.lower()


def png_names(count: int) -> list[str]:
    """Names, in order, for a set without names: ``000000.png`` and so on."""
    width = max(6, len(str(count - 1)))
    return [f"{i:0{width}d}.png" for i in range(count)]


def image_names(samples: SampleSet | None) -> list[str] | None:
    """The names of a set's image files, by image; None if it has none."""
    return getattr(samples, "names", None)


def written_name(name: str, *, lossy: bool) -> str:
    """The name under which an image is written by itself: its own, with ``.png`` for another suffix."""
    if suffix_of(name) == ".png" or (lossy and suffix_of(name) in LOSSY):
        return name
    return str(PurePosixPath(name).with_suffix(".png"))


def written_names(samples: SampleSet | None, *, lossy: bool) -> list[str] | None:
    """The names under which a set's images are written: their own, with ``.png`` for another suffix; None without names.

    ``a.jpg`` becomes ``a.png``, and stays ``a.jpg`` if `lossy`. Where that would give two images one name, or another order,
    all keep their suffix before the new one: ``a.jpg.png``. Only the order of sorted names counts: that of a folder.
    """
    names = image_names(samples)
    if names is None:
        return None
    short = [written_name(n, lossy=lossy) for n in names]
    ordered = sorted(short) == short or sorted(names) != list(names)
    if len({n.casefold() for n in short}) == len({n.casefold() for n in names}) and ordered:
        return short
    return [n if n == new else f"{n}.png" for n, new in zip(names, short, strict=True)]


def file_names(names: Sequence[str] | None, count: int) -> list[str]:
    """`names` if files of these names, sorted by path, come in this order; else numbers.

    A folder or archive of images is read in that order, so names that are sorted otherwise would change it.
    """
    if names is None or list(names) != sorted(names):
        return png_names(count)
    try:
        check_names("the output", names)
    except BadInputError:
        return png_names(count)
    return list(names)
