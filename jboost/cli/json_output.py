"""JSON for other programs, on stdout or in a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jboost.engine.system.replacing import replacing

#: Given instead of a file name, it means stdout.
STDOUT = "-"


def print_json(content: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Print `content` on stdout; on one line if `indent` is None. A number that is not finite becomes null."""
    from jboost.engine.system.typed import dump_json

    print(dump_json(content, indent=indent))


def write_json(content: Mapping[str, Any], file: str | None, *, stdout_indent: int | None = 2) -> None:
    """Write `content` as JSON to the destination that ``--json`` names; a file is indented.

    Args:
        content: JSON values by key; a number that is not finite becomes null.
        file: a path; ``"-"``: stdout; None: write nothing.
        stdout_indent: indent on stdout; None: one line.

    Raises:
        BadInputError: the file cannot be written.
        OSError: stdout cannot be written.
    """
    if file == STDOUT:
        print_json(content, indent=stdout_indent)
    elif file is not None:
        from jboost.engine.samples.files import cannot_write
        from jboost.engine.system.typed import dump_json

        try:
            with replacing(file) as aside:
                aside.write_text(dump_json(content, indent=2) + "\n", encoding="utf-8")
        except OSError as e:
            raise cannot_write(Path(file), e) from e
