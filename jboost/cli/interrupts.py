"""Ctrl-C and a scheduler's SIGTERM: the work ends in order, and the last line says how to go on."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_RESUMED = ("boost", "train", "tune")


class Interrupted(BaseException):
    """A signal asks the command to end. It is no KeyboardInterrupt: Typer would swallow that without a word.

    Attributes:
        exit_code: 128 + the signal's number, as shells have it.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.exit_code = 128 + number


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise `Interrupted` in the block at SIGINT or SIGTERM, unless the signal is ignored (nohup, a job in the background)."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {
            number: signal.signal(number, _interrupt)
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def how_to_go_on(arguments: Sequence[str]) -> str:
    """What to type after an interruption of ``jboost ARGUMENTS``, for the end of a line."""
    if not arguments or arguments[0] not in _RESUMED:
        return "nothing is left half-written; run the command again"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "go on with the same command and --resume"
    command, *rest = arguments
    return f"go on with: {shlex.join(['jboost', command, '--resume', *(a for a in rest if a != '--resume')])}"
