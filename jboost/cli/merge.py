"""``jboost merge``: the summary and run file of a run over shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options
from .json_output import STDOUT, write_json
from .notes import log_to
from .options import Debug
from .paths import check_paths
from .terminal import console


def merge(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder that `jboost boost SHARDS -o OUT` wrote.", show_default=False)
    ],
    run_file: Annotated[
        Path | None, typer.Option("--run", help="Write per-image records to this .npz file for `jboost report`.")
    ] = None,
    json_file: Annotated[str | None, options.json_file()] = None,
    debug: Debug = False,
) -> None:
    """Check that all shards of a run are there, and summarise it.

    Example: jboost merge out/ --run run.npz
    """
    from jboost.engine.shards.merge import merged, open_run

    from .boost import show_summary

    check_paths(inputs={"OUT": out}, outputs={"--run": run_file}, json_file=json_file)
    log_to(console(stderr=True))
    summary = merged(out, open_run(out), run_file)
    show_summary(summary, out, stderr=json_file == STDOUT)
    write_json(summary.to_dict(), json_file, stdout_indent=None)
