"""JSON for other programs, on stdout or in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jboost.engine.system.replacing import replacing

#: What a user gives instead of a file.
STDOUT = "-"


def print_json(content: Mapping[str, Any], *, indent: int | None = 2) -> None:
    """Print `content` on stdout; without `indent` on one line."""
    print(json.dumps(content, indent=indent))


def write_json(content: Mapping[str, Any], file: str | None, *, stdout_indent: int | None = 2) -> None:
    """Write `content` as indented JSON where ``--json`` says.

    Args:
        content: what to write.
        file: a path; ``"-"`` for stdout; None to write nothing.
        stdout_indent: the indent on stdout; None for one line.

    Raises:
        OSError: the file cannot be written.
    """
    if file == STDOUT:
        print_json(content, indent=stdout_indent)
    elif file is not None:
        with replacing(file) as aside:
            aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
