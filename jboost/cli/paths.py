"""A command's inputs and outputs, compared with each other before anything is computed or written."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

from .json_output import STDOUT
from .options import check_side_outputs

Paths = Mapping[str, Path | None]


def check_paths(
    *,
    inputs: Paths = {},  # noqa: B006 (a mapping that nobody writes to)
    outputs: Paths = {},  # noqa: B006
    folders: Paths = {},  # noqa: B006
    json_file: str | None = None,
    replaced: bool = True,
) -> None:
    """Refuse paths that would block, or destroy each other. None and names that do not exist are passed over.

    An output that is a symbolic link is written through, so the file that it leads to is compared.

    Args:
        inputs: files and folders to read, by option.
        outputs: files to write, by option.
        folders: files or folders to write, by option: the main output, which its own code checks further.
        json_file: value of ``--json``; ``"-"`` is stdout.
        replaced: whether the outputs in `folders` replace what is there.

    Raises:
        BadInputError: an input or output is a pipe, a socket or a device (but an output may be one of ``/dev``'s pipes and
            character devices, such as ``/dev/stdout``); two of the paths are the same file, or one lies inside another
            where that does harm; or an output cannot be written.
    """
    from jboost.engine.errors import BadInputError

    for option, path in inputs.items():
        if path is not None:
            _check_regular(option, path)
    for option, path in folders.items():
        if path is not None:
            _check_regular(option, path)
    if json_file == STDOUT and sys.__stdout__ is None:
        raise BadInputError("--json - writes to stdout, which is closed; name a file")
    files = {**outputs, "--json": None if json_file in (None, STDOUT) else Path(str(json_file))}
    for option, path in files.items():
        if path is not None and not _is_open_stream(path):
            _check_regular(option, path)
    # Streams are written to, not replaced, so they harm nothing.
    written = {o: p for o, p in {**folders, **files}.items() if p is not None and not _is_open_stream(p)}
    read = {o: p for o, p in inputs.items() if p is not None}
    for option, path in written.items():
        for other, source in read.items():
            if _same(path, source):
                raise _clash(option, path, other, source, "are the same")
            if _inside(path, source):
                raise _clash(option, path, other, source, "clash: the first lies inside the second")
            if replaced and option in folders and _inside(source, path):
                raise _clash(option, path, other, source, "clash: the first is replaced and holds the second")
    names = list(written)
    for i, option in enumerate(names):
        for other in names[:i]:
            if _same(written[option], written[other]):
                raise _clash(option, written[option], other, written[other], "are the same")
            for inner, outer in ((option, other), (other, option)):
                if _inside(written[inner], written[outer]):
                    raise _clash(
                        inner, written[inner], outer, written[outer], "clash: the first lies inside the second"
                    )
    check_side_outputs(json_file, outputs)


def if_path(text: str | None) -> Path | None:
    """A path of an option that takes other values too, such as ``package.module:factory``; None if no such file exists."""
    return Path(text) if text is not None and os.path.lexists(text) else None


def _clash(option: str, path: Path, other: str, source: Path, how: str) -> Exception:
    from jboost.engine.errors import BadInputError

    return BadInputError(f"{option} {path} and {other} {source} {how}; give {option} another path")


def _check_regular(option: str, path: Path) -> None:
    from jboost.engine.errors import BadInputError

    mode = _mode(path)
    if mode is None or stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    what = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
    raise BadInputError(f"{option} {path} is {what}; give a file")


def _is_open_stream(path: Path) -> bool:
    """Whether a path is a pipe or a character device that the system names, such as ``/dev/stdout`` or ``/dev/fd/63``."""
    mode = _mode(path)
    named = os.path.abspath(path).startswith(("/dev/", "/proc/"))
    return named and mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode))


def _mode(path: Path) -> int | None:
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError):  # ValueError: a null character
        return None


def _same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file, by name or by inode."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samestat(os.stat(one), os.stat(other))
    except OSError:
        return False


def _inside(path: Path, folder: Path) -> bool:
    """Whether a path lies below a folder; a folder that does not exist yet is compared by name."""
    here, above = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return above in here.parents or any(_same(parent, folder) for parent in here.parents if folder.is_dir())
