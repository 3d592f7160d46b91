"""What the library logs, as dim lines on stderr, above a progress bar if there is one."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


class _ToConsole(logging.Handler):
    """Prints log messages above the progress bar."""

    def __init__(self, notes: Console):
        super().__init__()
        self._notes = notes

    def emit(self, record: logging.LogRecord) -> None:
        for line in record.getMessage().split("\n"):
            self._notes.print(line, style="dim")


def log_to(notes: Console) -> None:
    """Print what jboost logs on `notes` from now on, and on no other console."""
    logger = logging.getLogger("jboost")
    logger.setLevel(logging.INFO)
    for handler in [handler for handler in logger.handlers if isinstance(handler, _ToConsole)]:
        logger.removeHandler(handler)
    logger.addHandler(_ToConsole(notes))
