"""One line for what the system refuses: which file, why, and what to do."""

from __future__ import annotations

import errno

from jboost.engine.errors import BadInputError, FailureError, JboostError, one_line
from jboost.engine.system.memory import lacks_memory

_REMEDIES = {
    errno.ENOSPC: "free some space or name another place",
    errno.EDQUOT: "free some space or name another place",
    errno.EFBIG: "the file may not grow that large; name another place",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a part of it is a file",
    errno.EISDIR: "name a file",
    errno.EACCES: "check the permissions or name another place",
    errno.EPERM: "check the permissions or name another place",
    errno.EROFS: "name a place on a disk that can be written",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "check the symbolic links in the path",
    errno.EMFILE: "close other programs, or allow more open files with: ulimit -n 4096",
    errno.EIO: "the disk or the network fails; check it and try again",
    errno.ESTALE: "the disk or the network fails; check it and try again",
}
# Naming something else does not mend these.
_FAILURES = (errno.EMFILE, errno.EIO, errno.ESTALE)


def explained(error: BaseException) -> JboostError | None:
    """What to tell the user about an error of the system; None if the system is not its cause.

    Covers errors of files and disks, and memory that is not there.
    """
    if lacks_memory(error):
        return FailureError(
            f"out of memory ({one_line(error)}); free some memory, or use a smaller batch (-b) where the command has one"
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    names = [_text(name) for name in (error.filename, error.filename2) if name is not None]
    what = " and ".join(names) if names else "stdout or a file"
    remedy = _REMEDIES.get(error.errno)
    message = f"{what}: {error.strerror or one_line(error)}" + (f"; {remedy}" if remedy else "")
    if not names:
        message += "; --debug shows where"
    failed = remedy is None or not names or error.errno in _FAILURES
    return FailureError(message) if failed else BadInputError(message)


def _text(name: object) -> str:
    return name.decode(errors="surrogateescape") if isinstance(name, bytes) else str(name)
