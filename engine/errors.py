"""Errors that reach the user as one line: what is wrong, why, and what to type next."""

from __future__ import annotations


def one_line(e: BaseException) -> str:
    """An exception's message without line breaks, at most 200 characters."""
    return " ".join(str(e).split())[:200]


class JboostError(Exception):
    """Something the user can read and act on; the command line prints its message and exits with ``exit_code``."""

    exit_code = 1


class BadInputError(JboostError, ValueError):
    """The input (a file, an option, an array) is not usable as given. Nothing was written. Exit code 2."""

    exit_code = 2


class FailureError(JboostError, RuntimeError):
    """The input was fine and the work failed all the same. Exit code 1."""

    exit_code = 1
