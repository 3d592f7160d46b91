"""Atomic replacement of files and folders.

A writer works on a temporary beside the target and renames it at the end. Whenever the writer is killed, a reader finds
the complete old contents or the complete new contents. The same holds after a power cut: the data reach the disk before
the name does.

A temporary is called ``.NAME~jboost-new-TOKEN.SUFFIX``, and its writer holds a lock (flock) on it. The next writer of
the same target removes temporaries without a lock: their writers were killed. Without such locks (on Windows and some
network disks) a killed writer's temporary looks like a live writer's, and it stays.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .locks import lock as _lock

# Temporaries repeat this many characters of the target's name, so their names stay within the usual 255 bytes.
_STEM = 48
_AT_WORKING_DIRECTORY, _RENAME_EXCHANGE = -100, 2  # constants of Linux's renameat2


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file atomically: yields an empty temporary file in the same folder with the same suffix.

    The block writes and closes the temporary. When the block ends, the temporary is forced to the disk and renamed over
    `path`. It takes over the permissions of the file it replaces; a new file gets the permissions that the umask
    leaves. A symbolic link stays, and its target is replaced. If the block raises, the temporary is removed and the old
    file is unchanged. A device or a pipe (``/dev/stdout``) cannot be replaced and is yielded itself.

    Raises:
        OSError: the system refused (no folder, no permission, a full disk); it names `path`, never the temporary.
    """
    if is_stream(path):
        yield Path(path)
        return
    target = _cleared(path)
    mode = _mode_of(target)

    def create(aside: Path) -> None:
        # The temporary for a private file must be private from the start, before it gets that file's mode.
        os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600))

    with _temporary(path, target, create) as aside:
        yield aside
        _flush(aside, mode)
        os.replace(aside, target)
        _flush_folder(target.parent)


def create_once(path: Path, content: bytes) -> bool:
    """Create a file with its whole contents, unless it exists: of several writers exactly one does. Returns whether this one did.

    Raises:
        OSError: the system refused.
    """
    target = _cleared(path)
    with _temporary(path, target, lambda aside: aside.touch(0o666, exist_ok=False)) as aside:
        aside.write_bytes(content)
        _flush(aside)
        try:
            os.link(aside, target)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            if target.exists():
                return False
            os.rename(aside, target)
        _flush_folder(target.parent)
    return True


def sweep(folder: Path) -> None:
    """Remove the temporaries that killed writers left in a folder, whatever their targets."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if re.fullmatch(r"\..*~jboost-new-[0-9a-f]{12}(\..*)?", name):
                with suppress(OSError):  # it belongs to a live writer, or this user may not remove it
                    handle = _lock(folder / name)
                    try:
                        _remove(folder / name)
                    finally:
                        os.close(handle)


@contextmanager
def replacing_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Write a folder atomically: yields an empty temporary folder in the same parent with the same suffix.

    When the block ends, every file in the temporary is forced to the disk and the temporary is renamed to `path`. The
    rest is as for `replacing`.

    Args:
        path: the folder to make.
        overwrite: whether a folder with contents is replaced. Linux swaps the two in one step. Elsewhere a kill between
            two renames can leave the old folder under a temporary name, which the next writer undoes.

    Raises:
        OSError: the system refused, or `path` is a folder with contents and `overwrite` is false.
    """
    target = _cleared(path)
    mode = _mode_of(target)
    with _temporary(path, target, lambda aside: aside.mkdir(0o777 if mode is None else 0o700)) as aside:
        yield aside
        for folder, _, files in os.walk(aside, topdown=False):
            for name in files:
                _flush(Path(folder, name))
            _flush_folder(Path(folder))
        _set_mode(aside, mode)
        if overwrite and target.is_dir():
            _swap(aside, target)
        else:
            os.rename(aside, target)
        _flush_folder(target.parent)


@contextmanager
def _temporary(path: str | os.PathLike[str], target: Path, create: Callable[[Path], None]) -> Iterator[Path]:
    """A locked temporary beside `target`.

    At the end, whatever has the temporary's name is removed: the temporary after a failure, the old folder after a
    swap, nothing after a rename.
    """
    aside, handle = _beside(target, "new"), None
    try:
        while True:
            create(aside)
            try:
                handle = _lock(aside)
                if os.path.samestat(os.fstat(handle), os.stat(aside)):
                    break
            except (BlockingIOError, FileNotFoundError):
                pass
            except OSError:  # this file system has no locks
                break
            # Another writer saw the temporary before it was locked and removes it, so try another one.
            if handle is not None:
                os.close(handle)
            aside, handle = _beside(target, "new"), None
        yield aside
    except OSError as e:
        if str(e.filename) == str(aside):
            raise OSError(e.errno, e.strerror, os.fspath(path)) from e
        raise
    finally:
        _remove(aside)
        if handle is not None:
            os.close(handle)


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f"{_prefix(target)}{what}-{os.urandom(6).hex()}{target.suffix}")


def _prefix(target: Path) -> str:
    return "." + target.stem[:_STEM].lstrip(".") + "~jboost-"  # after two leading dots the rest would count as a suffix


def _cleared(path: str | os.PathLike[str]) -> Path:
    """The file or folder that `path` leads to, after removing what its killed writers left.

    Anything that has a temporary's name and no lock is removed.
    """
    target = Path(os.path.realpath(path))
    pattern = re.escape(_prefix(target)) + "(new|old)-[0-9a-f]{12}" + re.escape(target.suffix)
    with suppress(OSError):
        for name in os.listdir(target.parent):
            if found := re.fullmatch(pattern, name):
                with suppress(OSError):  # it belongs to a live writer, or this user may not remove it
                    left = target.with_name(name)
                    handle = _lock(left)
                    try:
                        if found[1] == "old" and not target.exists():  # see `_swap`
                            os.rename(left, target)
                        else:
                            _remove(left)
                    finally:
                        os.close(handle)
    return target


def _swap(aside: Path, target: Path) -> None:
    """Put the folder `aside` in the place of `target`; the old folder is then called `aside`, or is removed."""
    if _exchange(aside, target):
        return
    old, handle = _beside(target, "old"), None
    with suppress(OSError):
        handle = _lock(target)
    try:
        os.rename(target, old)
        try:
            os.rename(aside, target)
        except BaseException:
            os.rename(old, target)
            raise
    finally:
        if handle is not None:
            os.close(handle)
    _remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False if the system or the file system cannot (anything but Linux; NFS)."""
    if sys.platform != "linux":
        return False
    import ctypes

    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc has it since 2.28
    names = [part for path in (one, other) for part in (_AT_WORKING_DIRECTORY, os.fsencode(path))]
    return rename is not None and rename(*names, _RENAME_EXCHANGE) == 0


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a device or a pipe, such as ``/dev/stdout``, which is written to and never replaced."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _mode_of(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        return None


def _set_mode(path: Path, mode: int | None) -> None:
    if mode is not None and mode != _mode_of(path):  # file systems with one mode for all files may refuse chmod
        path.chmod(mode)


def _flush(path: Path, mode: int | None = None) -> None:
    """Force a file to the disk, with `mode`."""
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        _set_mode(path, mode)  # after opening, because the mode may forbid opening
        os.fsync(handle)
    finally:
        os.close(handle)


def _flush_folder(path: Path) -> None:
    """Force a folder's entries to the disk, if the system can, so that a new name survives a power cut."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows cannot open folders; elsewhere the folder may not be readable
        return
    try:
        os.fsync(handle)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def discard(folder: Path) -> None:
    """Remove a folder: its name goes in one step, so that a kill leaves no part of it under that name."""
    aside = _beside(Path(os.path.realpath(folder)), "new")  # a killed writer's temporary, for whoever comes next
    os.rename(folder, aside)
    _remove(aside)


def _remove(path: Path) -> None:
    """Remove a file or folder; ignore any failure."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)
