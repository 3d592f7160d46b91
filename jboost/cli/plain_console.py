"""A rich console that prints text as it is. Its own module, because importing rich takes time that ``--help`` has not."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.status import Status
from rich.text import Text

from jboost.engine.errors import printable


class _PlainStatus(Status):
    def update(self, status: Any = None, **options: Any) -> None:
        """Show other text."""
        super().update(_plain(status), **options)


class PlainConsole(Console):
    """A console for text from anywhere: control characters are escaped, markup is off."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects; strings as they are, but for control characters."""
        super().print(*map(_plain, objects), **options)

    def status(self, status: Any, **options: Any) -> Status:
        """A spinner with text beside it."""
        return _PlainStatus(_plain(status), console=self, **options)


def _plain(value: Any) -> Any:
    # Rich reads markup in a status whatever its console says, so text goes in as `Text`.
    return Text(printable(value)) if isinstance(value, str) else value
