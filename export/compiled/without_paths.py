"""Take the exporter's paths and sources from the members of a compiled package, which may go to other people.

AOTInductor packs the C++ sources beside the library that was compiled from them; they name the compiler's command with the folders
of this machine. A library repeats these folders for its error messages and for debuggers. Loading a package needs neither.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

_SHORTEST = 8  # characters; a shorter path might be part of something else


def without_paths(name: str, content: bytes) -> bytes:
    """Return the content of a package's member called `name`: an empty C++ source, or a library with other folder names.

    The loader derives the names of other members from the source's name, so the source stays as an empty file. In a
    library each folder name is overwritten by one of the same length, because everything in a library has its place.
    """
    if name.endswith(".cpp"):
        return b""
    if name.endswith(".so"):
        for folder in _folders():
            content = content.replace(folder, b"/" + b"-" * (len(folder) - 1))
    return content


def _folders() -> tuple[bytes, ...]:
    """List the folders of this machine that a library may name, the longest first."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    found = {cache_dir(), *torch.__path__, sys.prefix, sys.base_prefix, str(Path.home()), str(Path.cwd())}
    found |= {str(Path(folder).resolve()) for folder in found}
    return tuple(sorted((f.encode() for f in found if len(f) >= _SHORTEST), key=len, reverse=True))
