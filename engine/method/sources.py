"""The source of objectives and updates from outside jboost: its digest tells one version from another."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

#: What stands between the name of an objective, or of an update's step, and the digest of its source.
SEPARATOR = "@"
_DIGITS = 8


def digest_of(texts: Iterable[str]) -> str:
    """A short digest of source texts, the same for Unix and Windows line ends."""
    joined = "\0".join(text.replace("\r\n", "\n") for text in texts)
    return hashlib.sha256(joined.encode()).hexdigest()[:_DIGITS]


def source_digest(function: Any) -> str | None:
    """The digest of the file that defines a function; None for jboost's own, and where there is no file."""
    module = getattr(function, "__module__", None) or ""
    if module.split(".")[0] == "jboost":
        return None
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    try:
        return digest_of([Path(file).read_text(encoding="utf-8")])
    except (OSError, ValueError):
        return None


def versioned(name: str, function: Any) -> str:
    """`name`, with the digest of the function's source behind it if it is from outside jboost."""
    digest = source_digest(function)
    return name if digest is None else f"{name}{SEPARATOR}{digest}"
