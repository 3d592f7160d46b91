"""What the commands share: the debug switch, parsing of lists, checks of paths, and the two consoles."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
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


class Measuring:
    """The options of how sets are measured, which `jboost eval` and `jboost report` share.

    Args:
        panel: of the help that they stand in.
    """

    def __init__(self, panel: str) -> None:
        self.metrics = typer.Option(
            help="fid,sfid,kid,is,precision,recall,density,coverage.", show_default="all", rich_help_panel=panel
        )
        self.bootstrap = typer.Option(help="Resamples behind the intervals; 0 for none.", rich_help_panel=panel)
        self.seed = typer.Option(help="Of the bootstrap.", rich_help_panel=panel)
        self.device = typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel=panel)
        self.batch_size = typer.Option(
            "-b",
            "--batch-size",
            help="Images at a time.",
            show_default="16 on a CPU, 128 on a GPU",
            rich_help_panel=panel,
        )


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


def check_side_outputs(json_file: str | None, pictures: Mapping[str, Path | None]) -> None:
    """See that what is written beside the work can be, before the work.

    Args:
        json_file: of ``--json``; ``"-"`` is stdout.
        pictures: by option.

    Raises:
        BadInputError: a path that is a folder, or whose folder does not exist.
    """
    from jboost.engine.errors import BadInputError

    for option, path in {**pictures, "--json": Path(json_file) if json_file not in (None, "-") else None}.items():
        if path is not None and (path.is_dir() or not path.resolve().parent.is_dir()):
            raise BadInputError(
                f"{option} {path} cannot be written: it is a folder, or its folder does not exist; name a file in one that does"
            )


def console(*, stderr: bool = False) -> Console:
    """Where remarks and progress go; plain where it is not a terminal."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, highlight=False, soft_wrap=not stream.isatty())
