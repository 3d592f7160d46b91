"""How a sample set is read: what the user may ask for, the same for every command and every kind of file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

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
        resize_flag: the command-line option for `resize`, which messages name.
    """

    images_key: str | None = None
    labels_key: str | None = None
    channels: int | None = None
    resize: int | None = None
    background: tuple[int, int, int] | None = None
    class_folders: ClassFolders | None = None
    luma: bool = False
    resize_flag: str = "--resize"

    def apply_to(self, fingerprint: str) -> str:
        """A set's fingerprint, read with these options; options at their defaults do not change it."""
        chosen = (self.images_key, self.labels_key, self.resize, self.background, self.class_folders, self.luma)
        if chosen == (None, None, None, None, None, False):
            return fingerprint
        return hashlib.sha256(f"{fingerprint} {chosen!r}".encode()).hexdigest()
