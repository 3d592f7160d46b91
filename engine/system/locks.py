"""Advisory locks: one writer of an output at a time. A lock lasts at most as long as the process that holds it.

The lock of a target is on a small file beside it, ``.NAME~jboost-lock-HASH``, which says who writes. The writer removes
it at the end; a killed writer leaves it without a lock, and the next writer takes it over.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from jboost.engine.errors import BadInputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Place = str | os.PathLike[str]
_STEM = 48  # as for temporaries
_POLL = 0.2  # seconds
_SIGNING = 0.05  # seconds in which whoever has just taken a lock has written its name
_BEYOND = 1 << 30  # Windows locks bytes, and others may not read those: one behind the text


def lock(path: Path) -> int:
    """Lock a file or folder while the returned handle is open, at most for the life of this process.

    Raises:
        BlockingIOError: it is already locked.
        OSError: it cannot be locked.
    """
    if sys.platform == "win32":
        raise OSError(errno.ENOTSUP, "no locks")
    # Network disks lock a file only if it is open for writing; a folder cannot be opened for writing.
    handle = os.open(path, os.O_NOFOLLOW | (os.O_RDONLY if path.is_dir() else os.O_RDWR))
    try:
        _take(handle)
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def only_writer(*targets: Place, on_wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Be the only writer of some files or folders while the block lasts; links to one target count as one.

    Where nothing can be locked (no such folder, no permission, a file system without locks), nothing is: the writer
    then meets the same obstacle or works without a lock.

    Args:
        targets: the files or folders; none has to exist.
        on_wait: called once with a remark if there is another writer, which is then waited for; None: refuse instead.

    Raises:
        BadInputError: another process writes one of them; the message names it.
    """
    with ExitStack() as held:
        for real, target in {os.path.realpath(target): target for target in targets}.items():
            file, told = _lock_file(Path(real)), False
            while (handle := _acquire(file, target, waits=on_wait is not None)) == _BUSY:
                if on_wait is not None and not told:
                    on_wait(f"waiting: {_said(file, target)}")
                    told = True
                time.sleep(_POLL)
            if handle is not None:
                held.callback(_release, handle, file)
        yield


def check_no_writer(target: Place) -> None:
    """Refuse at once what `only_writer` would refuse, before slow preparations.

    Raises:
        BadInputError: another process writes `target`.
    """
    if _lock_file(Path(os.path.realpath(target))).exists():
        with only_writer(target):
            pass


_BUSY = -1


def _lock_file(target: Path) -> Path:
    # The hash tells apart names that are equal up to the length that a file's name may have.
    unique = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]
    return target.with_name(f".{target.stem[:_STEM].lstrip('.')}~jboost-lock-{unique}")


def _acquire(file: Path, target: Place, *, waits: bool) -> int | None:
    """The handle of the locked file; None where nothing can be locked; `_BUSY` if another has it and this one waits."""
    while True:
        try:
            try:
                handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
            except PermissionError:  # another user's
                handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return None
        try:
            _take(handle)
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                _sign(handle)
                return handle
        except FileNotFoundError:
            pass  # its writer ended in between and removed it
        except BlockingIOError:
            os.close(handle)
            if waits:
                return _BUSY
            raise BadInputError(f"{_said(file, target)}; wait for it, or name another -o") from None
        except OSError:
            os.close(handle)
            return None
        os.close(handle)


def _sign(handle: int) -> None:
    facts = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):  # without its name the lock holds all the same
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(facts).encode())


def _said(file: Path, target: Place) -> str:
    """Who writes a target, as far as its lock file says."""
    time.sleep(_SIGNING)
    try:
        facts = json.loads(file.read_text())
        who = f"process {int(facts['process'])}"
        if facts["host"] != socket.gethostname():
            who += f" of {str(facts['host'])[:_STEM]!r}"
        return f"{os.fspath(target)} is being written by {who} since {str(facts['since'])[:_STEM]}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{os.fspath(target)} is being written by another process"


def _take(handle: int) -> None:
    """Lock an open file.

    Raises:
        BlockingIOError: it is already locked.
        OSError: it cannot be locked.
    """
    if sys.platform == "win32":
        os.lseek(handle, _BEYOND, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError as e:
            raise BlockingIOError(e.errno, e.strerror) from e
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _release(handle: int, file: Path) -> None:
    with suppress(OSError):  # Windows removes no open file
        file.unlink()
    if sys.platform != "win32":
        with suppress(OSError):  # said aloud, because forked processes may still hold a copy of the handle
            fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)
    if sys.platform == "win32":
        with suppress(OSError):
            file.unlink()
