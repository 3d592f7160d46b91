"""Commands that messages tell the user to type, quoted for the shell: a path may hold spaces, or begin with a hyphen."""

from __future__ import annotations

import os
import shlex


def in_shell(path: str | os.PathLike[str]) -> str:
    """A path as one word of a command, never an option."""
    text = os.fspath(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def make_folder(folder: str | os.PathLike[str]) -> str:
    """The command that makes a folder."""
    return f"mkdir -p {in_shell(folder)}"


def remove_folder(folder: str | os.PathLike[str]) -> str:
    """The command that removes a folder."""
    return f"rm -r {in_shell(folder)}"
