"""Errors that reach the user as one line: what is wrong, why, and what to type next."""

from __future__ import annotations

import unicodedata

#: The most characters that a message quotes from another library's message.
QUOTED = 300
# Unicode's categories: controls, formats (direction marks), surrogates, line and paragraph separators.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def one_line(said: BaseException | str, limit: int | None = QUOTED) -> str:
    """The message of `said` without line breaks, cut to `limit` characters; None for no limit.

    An exception without a message gives the name of its class.
    """
    return " ".join(_message(said).split())[:limit]


def first_line(said: BaseException | str) -> str:
    """The first line of the message of `said`, cut to `QUOTED` characters; for messages whose other lines are details.

    An exception without a message gives the name of its class.
    """
    return (_message(said).splitlines() or [""])[0][:QUOTED]


def printable(text: str) -> str:
    """`text` with every control character written as an escape (``\\x1b``), so that it cannot command a terminal.

    This covers the C0 and C1 controls (line breaks and tabs too), the marks that change the direction of text, line and
    paragraph separators, and the stand-ins for bytes of a path that are not UTF-8.
    """
    return "".join(_escape(c) if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


def _escape(c: str) -> str:
    return f"\\x{ord(c):02x}" if ord(c) < 256 else f"\\u{ord(c):04x}" if ord(c) < 65536 else f"\\U{ord(c):08x}"


def _message(said: BaseException | str) -> str:
    return str(said).strip() or ("" if isinstance(said, str) else type(said).__name__)


class JboostError(Exception):
    """An error that the user can act on; the command line prints its message and exits with ``exit_code``."""

    exit_code = 1


class BadInputError(JboostError, ValueError):
    """The input (a file, an option, an array) cannot be used. Nothing was written. Exit code 2."""

    exit_code = 2


class FailureError(JboostError, RuntimeError):
    """The input is valid but the work failed. Exit code 1."""

    exit_code = 1
