"""Plain aligned columns, the same in a terminal, a log and a pipe: lines are not wrapped, cut or padded at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from jboost.engine.errors import printable

from .terminal import console, print_line


def print_columns(rows: Sequence[Sequence[str]], *, stderr: bool = False) -> None:
    """Print rows of equal length; each column except the last is padded to its widest cell.

    Control characters are escaped.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)] + [row[-1]]
        print_line("  ".join(cells).rstrip(), stderr=stderr)


def print_results(
    head: Sequence[Sequence[str]], table: Sequence[Sequence[str]], notes: Iterable[str], *, stderr: bool
) -> None:
    """Print `head` (the settings), an empty line, `table` (the figures), and `notes` on them."""
    print_columns(head, stderr=stderr)
    print_columns([("",)], stderr=stderr)
    print_columns(table, stderr=stderr)
    out = console(stderr=stderr)
    for note in notes:
        out.print(note, style="dim")
