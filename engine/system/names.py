"""Names from files that anyone may have made: members of zip and npz files, entries of folders.

Such a name becomes a path on this disk, or a member of an archive that somebody else unpacks. So a name that could lead
outside the folder that it is unpacked into, or that some system takes for another one, is refused.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from jboost.engine.errors import BadInputError, printable

#: The most bytes of a name, in UTF-8. File systems allow 255 for each part.
_LONGEST = 1024


def check_names(source: str | Path, names: Iterable[str]) -> None:
    """Check an archive's member names; a name that ends in ``/`` is a folder.

    Args:
        source: the archive, for the message.
        names: every member's name, as the archive spells it.

    Raises:
        BadInputError: a name is empty, absolute, too long, or holds a drive letter, a backslash, a control character or
            an empty, ``.`` or ``..`` part; or two names are the same, perhaps but for case or Unicode spelling, so that
            they are one file on some systems; or a name is both a file and a folder.
    """
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name in names:
        if fault := _fault(name):
            raise BadInputError(
                f"{source} holds the name {printable(name[:100])!r}, which {fault}; do not trust this file, or write it "
                "again with plain relative names"
            )
        key = _key(name.removesuffix("/"))
        if key in seen:
            raise BadInputError(
                f"{source} holds {printable(seen[key])!r} and {printable(name)!r}, which are one name on some systems; "
                "write it again with names that differ"
            )
        seen[key] = name
        above = key
        while "/" in above:
            above = above.rpartition("/")[0]
            if above in folders:
                break  # so are the folders above it
            folders[above] = name
    for key in folders.keys() & seen.keys():
        if not seen[key].endswith("/"):
            raise BadInputError(
                f"{source} holds {printable(seen[key])!r} both as a file and as a folder (of "
                f"{printable(folders[key])!r}); write it again with names that differ"
            )


def path_inside(folder: Path, name: str) -> Path:
    """The path of `name` in `folder`.

    Raises:
        BadInputError: the path leads outside `folder`.
    """
    path = folder / name
    root = os.path.realpath(folder)
    if _fault(name) or os.path.commonpath([root, os.path.realpath(path)]) != root:
        raise BadInputError(f"{printable(name)!r} lies outside the output {folder}; do not trust the input")
    return path


def _fault(name: str) -> str | None:
    """What is wrong with a name by itself; None if nothing is."""
    if not name:
        return "is empty"
    if len(name.encode("utf-8", "surrogatepass")) > _LONGEST:
        return f"is longer than {_LONGEST:,} bytes"
    if any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
        return "has control characters"
    if any(unicodedata.category(c) == "Cs" for c in name):
        return "is not valid Unicode"
    if "\\" in name:
        return "has a backslash"
    if name.startswith("/"):
        return "is absolute"
    if len(name) > 1 and name[1] == ":":
        return "has a drive letter"
    parts = name.removesuffix("/").split("/")
    if ".." in parts:
        return "has a '..' part"
    if "." in parts or "" in parts:
        return "has an empty or '.' part"
    return None


def _key(name: str) -> str:
    """Equal for names that are one file on a system that ignores case or Unicode spelling."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
