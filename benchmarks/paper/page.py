"""Write docs/quality.md and its pictures from what a run found.

python benchmarks/paper/page.py --results out/quality/results.json --out docs
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import claims
from account import describe_chosen, describe_method, describe_models, describe_pixels, describe_time
from fewer_found import Found
from fewer_page import write_section
from printed import Printed, read_printed, render_beside, render_printed
from tables import TABLES, Results, Table, render, render_intervals

_COLUMNS = 100


def write_page(
    values: Mapping[str, Any], printed: Printed, pictures: Mapping[str, str], fewer: Mapping[str, Any] | None = None
) -> str:
    """The page, as Markdown.

    Args:
        values: from `run.py`.
        printed: from `read_printed`.
        pictures: names of files beside the page, by key (``models``, ``objectives``, ``steps``, ``samples``, ``fewer``,
            ``long``); those that are not there are left out.
        fewer: from `fewer.py`; None: the section on long steps is left out.
    """
    results = Results(values)
    parts = [_opening(values, printed), *_warnings(values), *_verdicts(results, printed)]
    shown = "The first image of each class, before and after boosting with the small joint model"
    parts += _picture(pictures, "samples", shown)
    for table in TABLES:
        number = f"Table {table.paper}: " if table.paper else ""
        parts += [f"## {number}{table.title}", "\n".join(render(table, results)), table.note]
        if table.key == "precision":
            parts.append("\n".join(describe_pixels(values)))
        parts += _beside(table, results, printed)
        parts += _picture(pictures, table.key, table.title)
    parts += ["## Table 5: Steps and step size", "\n".join(describe_chosen(values)), *_as_printed(5, printed)]
    parts += ["## How it was done", "\n".join(describe_method(values)), "\n".join(describe_models(values))]
    parts += _picture(
        pictures, "steps", "FID by number of steps at the chosen step size, on the tuning samples of the two-step flow"
    )
    parts += [] if fewer is None else write_section(fewer, pictures)
    parts += [
        "## Every FID with its interval",
        "The brackets are 95% bootstrap intervals: how far a number would move with other samples of the same generator.",
        "\n".join(render_intervals(results)),
        "## Time",
        "\n".join(describe_time(values)),
    ]
    return _wrapped("\n\n".join(part for part in parts if part)) + "\n"


def _wrapped(page: str) -> str:
    """The page with its paragraphs and list items wrapped; tables, headings and pictures keep their lines."""
    lines = []
    for line in page.split("\n"):
        if len(line) <= _COLUMNS or line.startswith(("|", "#", "![")):
            lines.append(line)
            continue
        indent = " " * (len(line) - len(line.lstrip(" -")))
        lines += textwrap.wrap(line, _COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)


def _opening(values: Mapping[str, Any], printed: Printed) -> str:
    return (
        "# Quality: the paper's tables at small scale\n\n"
        f"{printed.authors}: *{printed.title}* ([arXiv]({printed.url})). The paper works on {printed.data}. This page "
        "makes the same comparisons on Fashion-MNIST, with models that two CPU cores can train. Its FIDs come from other "
        "images and other features, so you can compare their order with the paper's, but not their size.\n\n"
        "`benchmarks/paper/page.py` writes this page from a run of `benchmarks/paper/run.py` with seeds "
        f"{', '.join(map(str, values['plan']['seeds']))}."
    )


def _warnings(values: Mapping[str, Any]) -> list[str]:
    plan, missing, said = values["plan"], values["missing"], []
    if plan["scale"] != 1:
        said.append(f"**A trial at {plan['scale']:g} of the full size: everything ran, and the numbers mean nothing.**")
    if missing:
        said.append(f"**Steps that were not run: {len(missing)}, among them {', '.join(missing[:3])}.**")
    return said


def _verdicts(results: Results, printed: Printed) -> list[str]:
    verdicts = claims.judge(results, printed)
    agreed = sum(verdict.answer == "yes" for verdict in verdicts)
    return [
        f"Claims that hold in every seed and every comparison: {agreed} of {len(verdicts)}.",
        "\n".join(claims.render(verdicts)),
        "- *yes*: every comparison agrees with the claim in every seed.\n"
        "- *no*: no comparison agrees with the claim in most seeds.\n"
        "- *partly*: anything between.",
    ]


def _picture(pictures: Mapping[str, str], key: str, title: str) -> list[str]:
    return [f"![{title}]({pictures[key]})"] if key in pictures else []


def _beside(table: Table, results: Results, printed: Printed) -> list[str]:
    """This run's numbers beside the paper's, and the paper's table as printed."""
    if table.paper is None:
        return []
    beside = render_beside(table, results, printed)
    return (["\n".join(beside)] if beside else []) + _as_printed(table.paper, printed)


def _as_printed(number: int, printed: Printed) -> list[str]:
    return [f"As printed ({printed.sources[number]}):", "\n".join(render_printed(printed, number))]


def draw(folder: Path, results: Results, samples: Path) -> dict[str, str]:
    """Write the pictures into `folder`; their names by key."""
    from plots import plot_distances, plot_steps

    names = {key: f"quality_{key}.png" for key in ("models", "objectives", "steps", "samples")}
    made = {
        "models": plot_distances(folder / names["models"], results, "models", ("flow1", "flow2")),
        "objectives": plot_distances(folder / names["objectives"], results, "objectives", ("flow2",)),
        "steps": plot_steps(folder / names["steps"], results),
        "samples": samples.exists() and bool(shutil.copyfile(samples, folder / names["samples"])),
    }
    return {key: names[key] for key, there in made.items() if there}


def draw_fewer(folder: Path, found: Found, images: Path) -> dict[str, str]:
    """Write the pictures of the section on long steps into `folder`; their names by key."""
    from plots import plot_gradients

    made = {
        "quality_fewer.png": ("fewer", plot_gradients(folder / "quality_fewer.png", found)),
        "steps.png": ("long", images.exists() and bool(shutil.copyfile(images, folder / "steps.png"))),
    }
    return {key: name for name, (key, there) in made.items() if there}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("out/quality/results.json"))
    parser.add_argument(
        "--fewer", type=Path, help="fewer.json, which fewer.py wrote; without it its section is left out"
    )
    parser.add_argument("--out", type=Path, default=Path("docs"))
    args = parser.parse_args()
    if not args.results.exists():
        parser.error(f"{args.results} does not exist; run benchmarks/paper/run.py first")
    values = json.loads(args.results.read_text(encoding="utf-8"))
    args.out.mkdir(parents=True, exist_ok=True)
    pictures = draw(args.out, Results(values), args.results.parent / "picture" / "picture.png")
    fewer = None
    if args.fewer is not None:
        fewer = json.loads(args.fewer.read_text(encoding="utf-8"))
        pictures |= draw_fewer(args.out, Found(fewer), args.fewer.parent / "picture" / "picture.png")
    page = args.out / "quality.md"
    page.write_text(write_page(values, read_printed(), pictures, fewer), encoding="utf-8")
    print(f"{page} and {len(pictures)} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
