"""The paper's own figures, from paper.toml: as tables, as quotations for the claims, and beside this run's."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tables import Results, Table
from variants import NONE, SOURCES

PAPER = Path(__file__).with_name("paper.toml")

#: The generator's own line, in every table.
UNBOOSTED = "no boosting"

_HEADINGS = {"title", "authors", "url", "data", "line"}
#: A column's figures by metric, such as ``{"FID": 4.95}``.
Figures = Mapping[str, float | str]


@dataclass(frozen=True)
class Printed:
    """What the paper prints.

    Attributes:
        title, authors, url, data: of the paper and its experiments.
        lines: by table and row, the figures by column.
        sources: by table, where its figures were read.
    """

    title: str
    authors: str
    url: str
    data: str
    lines: Mapping[tuple[int, str], Mapping[str, Figures]]
    sources: Mapping[int, str]

    def rows(self, table: int) -> list[str]:
        """The rows of a table, in its order."""
        return [row for number, row in self.lines if number == table]

    def columns(self, table: int) -> list[str]:
        """The columns of a table, in its order."""
        return list(dict.fromkeys(column for row in self.rows(table) for column in self.lines[table, row]))

    def figure(self, table: int, row: str, column: str, metric: str = "FID") -> float:
        """One figure.

        Raises:
            KeyError: the paper does not print it.
        """
        return float(self.lines[table, row][column][metric])

    def quote(self, table: int, low: str, high: str) -> str:
        """The FIDs of two rows, column by column: ``low 8.71, 7.64 against high 8.83, 7.98``."""
        columns = self.columns(table)
        of = {row: ", ".join(f"{self.figure(table, row, column):.2f}" for column in columns) for row in (low, high)}
        won = sum(self.figure(table, low, column) < self.figure(table, high, column) for column in columns)
        return (
            f"table {table} ({'; '.join(columns)}): {low} {of[low]} against {high} {of[high]}, "
            f"lower in {won} of {len(columns)}"
        )


def read_printed(path: Path = PAPER) -> Printed:
    """Read the paper's figures.

    Raises:
        ValueError: a line lacks its table, its row or its source, or has no figures.
    """
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    if unknown := values.keys() - _HEADINGS:
        raise ValueError(f"{path}: unknown keys {', '.join(sorted(unknown))}")
    lines: dict[tuple[int, str], dict[str, Figures]] = {}
    sources: dict[int, str] = {}
    for line in values.get("line", []):
        if missing := {"table", "row", "source"} - line.keys():
            raise ValueError(f"{path}: the line {line} lacks {', '.join(sorted(missing))}")
        table, row, source = line.pop("table"), line.pop("row"), line.pop("source")
        if not line or (table, row) in lines:
            raise ValueError(f"{path}: row {row} of table {table} has no figures, or stands there twice")
        lines[table, row], sources[table] = line, source
    return Printed(values["title"], values["authors"], values["url"], values["data"], lines, sources)


def render_printed(printed: Printed, table: int) -> list[str]:
    """A table of the paper as Markdown; the longer of its two sides runs down the page."""
    rows, columns = printed.rows(table), printed.columns(table)
    metrics = list(dict.fromkeys(m for row in rows for figures in printed.lines[table, row].values() for m in figures))
    cells = {
        (row, column): " / ".join(_text(figures[metric]) for metric in metrics)
        for row in rows
        for column, figures in printed.lines[table, row].items()
    }
    down, across = (rows, columns) if len(rows) >= len(columns) else (columns, rows)
    lines = [f"| {' / '.join(metrics)} | {' | '.join(across)} |", "|---" * (len(across) + 1) + "|"]
    for name in down:
        texts = [cells.get((name, other) if down is rows else (other, name), "-") for other in across]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return lines


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.2f}"


def render_beside(table: Table, results: Results, printed: Printed) -> list[str]:
    """FID as a share of the FID without boosting, this run's lines beside the paper's; empty if no line has a counterpart."""
    pairs = [line for line in table.lines if line.paper is not None and line.variant != NONE]
    if table.paper is None or not pairs:
        return []
    columns = printed.columns(table.paper)
    ours = list(dict.fromkeys(source for source, _ in table.columns if source is not None)) or [None]
    heads = [f"here: {SOURCES[source]}" if source else "here" for source in ours]
    lines = [
        f"| FID / FID without boosting | {' | '.join(heads)} | the paper's row | {' | '.join(columns)} |",
        "|---" * (len(heads) + len(columns) + 2) + "|",
    ]
    for line in pairs:
        here = [_share(results, source or line.source or "", line.variant) for source in ours]
        assert line.paper is not None
        figures = printed.lines[table.paper, line.paper]
        there = [
            f"{printed.figure(table.paper, line.paper, column) / printed.figure(table.paper, UNBOOSTED, column):.2f}"
            if column in figures
            else "-"
            for column in columns
        ]
        lines.append(f"| {line.title} | {' | '.join(here)} | {line.paper} | {' | '.join(there)} |")
    return lines


def _share(results: Results, source: str, variant: str) -> str:
    boosted, unboosted = results.cell(source, variant, "fid"), results.cell(source, NONE, "fid")
    if not boosted.values or not unboosted.values:
        return "-"
    return f"{boosted.mean / unboosted.mean:.2f}"
