"""What the commands share: the debug switch, parsing of lists, and the two consoles."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

#: Set by --debug, read where errors are shown.
debug_wanted = False


def _set_debug(value: bool) -> None:
    global debug_wanted
    debug_wanted = debug_wanted or value


Debug = Annotated[
    bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.", rich_help_panel="Other")
]


def split_numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """``"64,128"`` as (64, 128); None for None.

    Raises:
        BadInputError: not whole numbers.
    """
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        from jboost.engine.errors import BadInputError

        raise BadInputError(f"{option} takes whole numbers with commas between, e.g. 64,128; got {text!r}") from None


def console(*, stderr: bool = False) -> Console:
    """Where remarks and progress go; plain where it is not a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, soft_wrap=not stream.isatty())
