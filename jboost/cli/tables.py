"""Plain aligned columns, the same in a terminal, a log and a pipe: nothing is wrapped, cut or padded at the end of a line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from .options import console


def print_columns(rows: Sequence[Sequence[str]], *, stderr: bool = False) -> None:
    """Print `rows`, equally long, with each column but the last padded to its widest entry."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)] + [row[-1]]
        print("  ".join(cells).rstrip(), file=sys.stderr if stderr else sys.stdout)


def print_results(
    head: Sequence[Sequence[str]], table: Sequence[Sequence[str]], notes: Iterable[str], *, stderr: bool
) -> None:
    """Print what was measured and how, an empty line, the figures, and notes on them."""
    print_columns(head, stderr=stderr)
    print_columns([("",)], stderr=stderr)
    print_columns(table, stderr=stderr)
    out = console(stderr=stderr)
    for note in notes:
        out.print(note, style="dim", markup=False)
