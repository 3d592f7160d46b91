"""Processes that die at a chosen moment of a write, and what they leave."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from children import fork, wait

from jboost.engine.system import replacing as module


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def dying_after(call: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *arguments: (call(*arguments), die())


def while_writing(size: int) -> None:
    """The system kills whoever writes beyond half of the largest file."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))


def before_the_flush(size: int) -> None:
    os.fsync = die


def before_the_rename(size: int) -> None:
    os.rename = os.replace = module._exchange = die


def after_the_rename(size: int) -> None:
    for where, name in ((os, "rename"), (os, "replace"), (module, "_exchange")):
        setattr(where, name, dying_after(getattr(where, name)))


MOMENTS = (while_writing, before_the_flush, before_the_rename, after_the_rename)


def killed(work: Callable[[], object], moment: Callable[[int], None], size: int = 0) -> None:
    """Do `work` in a fork that dies at a moment; for tests that run in a `Child`."""

    def child() -> None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):  # files, which must not grow either
            os.dup2(nowhere, stream)
        moment(size)
        work()

    expected = signal.SIGXFSZ if moment is while_writing else signal.SIGKILL
    assert wait(fork(child)) == -expected, moment.__name__


def contents(path: Path) -> bytes | dict[str, bytes] | None:
    """Of a file, or of a folder's files by name; None where there is nothing."""
    if path.is_dir():
        return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}
    return path.read_bytes() if path.exists() else None


def size_of(found: bytes | dict[str, bytes]) -> int:
    return len(found) if isinstance(found, bytes) else max(map(len, found.values()))


def folder_with(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())
