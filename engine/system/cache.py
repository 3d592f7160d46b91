"""The cache folder: files that jboost would otherwise make again."""

from __future__ import annotations

import os
from pathlib import Path

from .replacing import replacing


def cache_folder() -> Path:
    """``$JBOOST_CACHE``, else ``$XDG_CACHE_HOME/jboost``, else ``~/.cache/jboost``."""
    if "JBOOST_CACHE" in os.environ:
        return Path(os.environ["JBOOST_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jboost"


def read_cached(name: str) -> bytes:
    """The contents of a file in the cache; empty if there is no such file."""
    try:
        return (cache_folder() / name).read_bytes()
    except OSError:
        return b""


def write_cached(name: str, content: bytes) -> None:
    """Write a file into the cache atomically. A folder that is not writable is no error: the cache only saves time."""
    path = cache_folder() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(path) as aside:
            aside.write_bytes(content)
    except OSError:
        return
