"""The only way to the terminal: text goes out as it is, with control characters escaped and no markup.

File names, labels and class names come from files that anyone may have made. An escape sequence in one would command the
terminal, and square brackets would be taken for rich's markup.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from io import TextIOBase
from typing import TYPE_CHECKING, TextIO, cast

from jboost.engine.errors import printable

if TYPE_CHECKING:
    from rich.console import Console


class _Forgiving(TextIOBase):
    """A stream whose reader may go away: what cannot be written is dropped, because no work may fail for a message."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        return is_terminal(self._stream)

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a stream is an open terminal."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False


def output(*, stderr: bool = False) -> TextIO:
    """stdout, or stderr, which drops what it cannot write."""
    return cast(TextIO, _Forgiving(sys.stderr)) if stderr else sys.stdout


def print_line(text: str, *, stderr: bool = False) -> None:
    """Print a line, control characters escaped.

    Raises:
        OSError: stdout cannot be written; stderr never raises.
    """
    print(printable(text), file=output(stderr=stderr))


def console(*, stderr: bool = False) -> Console:
    """Return a console for notes and progress; text is neither markup nor able to command the terminal.

    Lines are wrapped only in a terminal.
    """
    from .plain_console import PlainConsole

    stream = output(stderr=stderr)
    return PlainConsole(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=not is_terminal(stream))


def open_closed_streams() -> None:
    """Open the null device in the place of each of stdin, stdout and stderr that the caller closed.

    Otherwise the next file that is opened would take the place, and messages of C libraries would land in it. Characters
    that a stream's encoding lacks are escaped from now on.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 (for the life of the process)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def flush_stdout() -> None:
    """Write what stdout still holds.

    Raises:
        OSError: it cannot be written. Python then does not try again when it exits.
    """
    try:
        sys.stdout.flush()
    except OSError:
        drop_stdout()
        raise


def drop_stdout() -> None:
    """Send what stdout still holds to the null device, so that Python does not complain about it when it exits."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
