"""A folder for what a library unpacks before it loads it, and why a temporary folder does not serve.

torch unpacks a compiled package into ``TMPDIR`` and leaves the files there if loading fails or the process is killed. Here the
files get a folder of their own, which is removed as soon as they are loaded; a killed process's folder is removed by the next one.
"""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_PREFIX, _LOCK = "jboost-unpacked-", "lock"
_SETTLING = 5.0  # seconds in which a new folder may still lack its lock
_one_at_a_time = threading.Lock()  # TMPDIR is the process's
_kept: list[tuple[Path, int | None]] = []


@contextmanager
def unpacking(*, keep: bool) -> Iterator[None]:
    """Let libraries unpack into a folder of their own.

    Args:
        keep: remove the folder when the process ends, because files are read later; False: at the end of the block. On Linux,
            loaded libraries stay usable without their files.

    Raises:
        OSError: there is no temporary folder that can be written.
    """
    base = Path(tempfile.gettempdir())  # before TMPDIR changes: Python remembers it
    _remove_abandoned(base)
    with _one_at_a_time:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
        lock = _lock(folder)
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(folder)
        loaded = False
        try:
            yield
            loaded = True
        finally:
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before
            if keep and loaded:
                if not _kept:
                    atexit.register(_remove_kept)
                _kept.append((folder, lock))
            else:
                _remove(folder, lock)


def _lock(folder: Path) -> int | None:
    """The handle of the folder's lock, which says that its process lives; None where nothing can be locked."""
    if sys.platform == "win32":
        return None
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return None
    return handle


def _remove(folder: Path, lock: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def _remove_kept() -> None:
    for folder, lock in _kept:
        _remove(folder, lock)
    _kept.clear()


def _remove_abandoned(base: Path) -> None:
    """Remove the folders of this user's processes that were killed."""
    if sys.platform == "win32":
        return
    for folder in base.glob(f"{_PREFIX}*"):
        with suppress(OSError):
            found = folder.lstat()
            if folder.is_symlink() or found.st_uid != os.getuid() or time.time() - found.st_mtime < _SETTLING:
                continue
            if (lock := _lock(folder)) is not None:  # nobody holds it
                _remove(folder, lock)


def why_unusable(size: int) -> str | None:
    """Why the temporary folder cannot take files of `size` bytes in total that are loaded as programs, and the remedy.

    None if it can.
    """
    try:
        base = tempfile.gettempdir()
        with tempfile.TemporaryFile(dir=base) as probe:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(probe.fileno(), 0, max(1, size))
        if hasattr(os, "ST_NOEXEC") and os.statvfs(base).f_flag & os.ST_NOEXEC:
            return f"the temporary folder {base} does not let programs run (it is mounted noexec); {_ANOTHER}"
    except OSError as e:
        if e.errno == errno.EFBIG:
            return f"no file may grow to {_mib(size)} here; raise the limit: ulimit -f unlimited"
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            return f"the temporary folder {base} has no room for {_mib(size)}; free some, or {_ANOTHER}"
        return f"no temporary folder can be written ({e.strerror or e}); {_ANOTHER}"
    return None


_ANOTHER = "name another folder: mkdir -p ~/jboost-tmp && export TMPDIR=~/jboost-tmp"


def _mib(size: int) -> str:
    return f"{max(1, round(size / 2**20)):,} MiB"
