"""The user's own record of code that may run here: bundles by digest, compiled packages by hash.

A bundle's manifest has no key, so its hashes say that it is whole and not who made it. This record says whom the user
trusts. It lies outside every bundle, in a folder that only the user can write to. Each entry is a file of its own, so
writers never wait for each other.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .replacing import replacing

_NAME = re.compile(r"[a-z]+-[0-9a-f-]+")


def trust_folder() -> Path:
    """``$JBOOST_TRUST``, else ``$XDG_CONFIG_HOME/jboost/trusted``, else ``~/.config/jboost/trusted``."""
    if os.environ.get("JBOOST_TRUST"):
        return Path(os.environ["JBOOST_TRUST"])
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "jboost" / "trusted"


def is_trusted(kind: str, key: str) -> bool:
    """Whether the user's record holds `key` (hexadecimal digits) of a `kind` (``"bundle"`` or ``"package"``)."""
    return _read(_entry(kind, key)) is not None


def remember(kind: str, key: str, note: dict[str, Any]) -> None:
    """Record `key` of a `kind`.

    Args:
        kind, key: see `is_trusted`.
        note: what the entry says to a reader; JSON values.

    Raises:
        OSError: the record cannot be written, or others may write to it, so that it would not count.
    """
    entry = _entry(kind, key)
    entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with replacing(entry) as aside:
        aside.chmod(0o600)
        aside.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
    if not is_trusted(kind, key):
        raise PermissionError(errno.EPERM, "others own it or may write to it", str(entry.parent))


def forget(kind: str, key: str) -> bool:
    """Remove an entry; return whether there was one.

    Raises:
        OSError: the record cannot be written.
    """
    try:
        _entry(kind, key).unlink()
    except FileNotFoundError:
        return False
    return True


def entries(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, note) for each entry of a `kind`."""
    for file in sorted(trust_folder().glob(f"{kind}-*.json")):
        note = _read(file)
        if note is not None:
            yield file.stem.removeprefix(f"{kind}-"), note


def _entry(kind: str, key: str) -> Path:
    name = f"{kind}-{key}"
    if not _NAME.fullmatch(name):
        raise ValueError(f"not the name of an entry: {name!r}")
    return trust_folder() / f"{name}.json"


def _read(file: Path) -> dict[str, Any] | None:
    """The note of an entry; None if there is none, or if somebody else may have written it."""
    try:
        if not (_only_mine(file.parent) and _only_mine(file)):
            return None
        note = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def _only_mine(path: Path) -> bool:
    """Whether `path` belongs to this user and nobody else may write to it. Always True on Windows, which has no such modes."""
    if os.name == "nt":
        return True
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
