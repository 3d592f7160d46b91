"""How a sample set is read: what the user may ask for, the same for every command and every kind of file."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

from jboost.engine.errors import BadInputError, printable

#: Which folders name the classes: the topmost, those that the images lie in, or none.
ClassFolders = Literal["top", "last", "none"]


@dataclass(frozen=True)
class ReadOptions:
    """How to read a sample set.

    Attributes:
        images_key: name of the images' array or column; None: the names that jboost knows.
        labels_key: name of the labels' array or column; None: the names that jboost knows.
        channels: channels that the images must have, 1 or 3: the model's; None: the files' own.
        resize: side in pixels to resize to and crop around the centre, see `jboost.engine.samples.resize`; None: never.
        background: RGB colour that transparent pixels are laid over; None: images with such pixels are refused.
        class_folders: which folders name the classes; None: those that show it, see `jboost.engine.samples.classes`.
        luma: whether colour images may become grey ones by ITU-R 601 luma where `channels` is 1.
        resize_flag: the command-line option for `resize`, which messages name; None: there is none.
        keys_are_flags: whether the command has options for the two keys, which messages name.
    """

    images_key: str | None = None
    labels_key: str | None = None
    channels: int | None = None
    resize: int | None = None
    background: tuple[int, int, int] | None = None
    class_folders: ClassFolders | None = None
    luma: bool = False
    resize_flag: str | None = "--resize"
    keys_are_flags: bool = True

    @property
    def or_no_labels(self) -> str:
        """What else may be done about labels that cannot be used, for a message."""
        return ", or read the set without labels: --labels-key none" if self.keys_are_flags else ""

    def apply_to(self, fingerprint: str) -> str:
        """A set's fingerprint, read with these options; options at their defaults do not change it."""
        chosen = (self.images_key, self.labels_key, self.resize, self.background, self.class_folders, self.luma)
        if chosen == (None, None, None, None, None, False):
            return fingerprint
        return hashlib.sha256(f"{fingerprint} {chosen!r}".encode()).hexdigest()


#: Every option at its default.
AS_IT_IS = ReadOptions()
_COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255), "grey": (128, 128, 128), "gray": (128, 128, 128)}
_MOST_PIXELS = 16_384


def parse_background(text: str | None) -> tuple[int, int, int] | None:
    """The colour ``"white"``, ``"black"``, ``"grey"`` or ``"#rrggbb"``; None stays None.

    Raises:
        BadInputError: it is none of these.
    """
    if text is None:
        return None
    if text.lower() in _COLOURS:
        return _COLOURS[text.lower()]
    if not re.fullmatch("#?[0-9a-fA-F]{6}", text):
        raise BadInputError(f"{printable(text)!r} is not a background colour; give white, black, grey or '#rrggbb'")
    number = int(text.removeprefix("#"), 16)
    return number >> 16, number >> 8 & 255, number & 255


def parse_channels(channels: int | None) -> int | None:
    """1 or 3; None stays None.

    Raises:
        BadInputError: it is another number.
    """
    if channels not in (None, 1, 3):
        raise BadInputError(f"--channels {channels}: images have 1 channel or 3")
    return channels


def parse_resize(side: int | None, flag: str = "--resize") -> int | None:
    """A side in pixels; None stays None.

    Raises:
        BadInputError: it is below 1 or absurdly large.
    """
    if side is not None and not 1 <= side <= _MOST_PIXELS:
        raise BadInputError(f"{flag} {side}: images cannot be resized to {side} pixels; give 1 to {_MOST_PIXELS:,}")
    return side


def parse_class_folders(text: str | None) -> ClassFolders | None:
    """``"top"``, ``"last"`` or ``"none"``; None stays None.

    Raises:
        BadInputError: it is none of these.
    """
    if text is None or text in get_args(ClassFolders):
        return cast(ClassFolders | None, text)
    raise BadInputError(f"--class-folders {printable(text)!r}: choose from {', '.join(get_args(ClassFolders))}")
