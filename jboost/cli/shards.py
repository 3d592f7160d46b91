"""``jboost boost`` over shards: a process for its share of them, or for all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from .terminal import console, is_terminal, print_line

if TYPE_CHECKING:
    from jboost.booster import Booster
    from jboost.engine.method.settings import Settings
    from jboost.engine.results.summary import Summary
    from jboost.engine.shards.plan import Shard
    from jboost.engine.shards.share import Share
    from jboost.sharded import Outcome, ShardRun

#: Options that speak of one output file, and what to do about them.
_OF_ONE_FILE = {
    "--grid": "draw one from a shard: jboost boost SHARD --grid FILE",
    "--snapshots": "boost a shard alone for its snapshots",
}


def check_options(given: Sequence[str], share: str | None, json_file: str | None, run_file: Path | None) -> None:
    """Refuse options that shards have no use for.

    Args:
        given: those of ``--grid`` and ``--snapshots`` that the user gave.
        share: value of ``--shard``.
        json_file, run_file: values of ``--json`` and ``--run``.

    Raises:
        BadInputError: there is one.
    """
    from jboost.engine.errors import BadInputError

    for option in given:
        raise BadInputError(f"{option} is of one file, not of shards; leave it out, or {_OF_ONE_FILE[option]}")
    for option, value in (("--json", json_file), ("--run", run_file)):
        if share is not None and value is not None:
            raise BadInputError(f"{option} is of the whole run; leave it out here, and at the end type: jboost merge OUT {option} FILE")


def find_share(text: str | None) -> Share:
    """The share that ``--shard`` names; all without it.

    Raises:
        BadInputError: see `parse_share`.
    """
    from jboost.engine.shards.share import WHOLE, parse_share

    return WHOLE if text is None else parse_share(text, os.environ)


def boost_share(
    run: ShardRun, open_booster: Callable[[str, int | None], Booster], settings_of: Callable[[Booster], Settings]
) -> Outcome:
    """Make the shards of one process; a line for each on stderr.

    Raises:
        JboostError: see `jboost.sharded.boost_shards`.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from jboost.sharded import boost_shards

    notes = console(stderr=True)
    total = len(run.plan.shards[run.share.index :: run.share.count])
    if not total:
        notes.print(f"share {run.share} has none of the {len(run.plan.shards):,} shards", style="dim")
    start, counted = perf_counter(), [0, 0]
    columns = (TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True, disable=not is_terminal(sys.stderr)) as bar:
        task = bar.add_task("shards", total=total)

        def on_shard(shard: Shard, images: int, error: str | None) -> None:
            counted[0] += 1
            counted[1] += images
            speed = counted[1] / max(perf_counter() - start, 1e-9)
            line = f"{shard.name}: {images:,} images, {speed:.1f} images/s" if error is None else f"{shard.name}: {error}"
            notes.print(f"{line} ({counted[0]:,} of {total:,})" if error is None else line, style="dim" if error is None else None)
            bar.update(task, advance=1)

        outcome = boost_shards(run, open_booster, settings_of, on_shard=on_shard)
        if outcome.before:
            notes.print(f"{outcome.before:,} of {total:,} shards were done before", style="dim")
    return outcome


def finish(
    out: Path, outcome: Outcome, share: Share, *, run_file: Path | None, show: Callable[[Summary], Any]
) -> Summary | None:
    """Say what came of a share; for all shards, show the whole's summary and write its run file.

    Raises:
        FailureError: shards could not be made.
    """
    from jboost.engine.errors import FailureError
    from jboost.engine.shards.merge import merged, open_run
    from jboost.engine.system.commands import in_shell

    made = outcome.before + outcome.done
    if outcome.failed:
        raise FailureError(
            f"{len(outcome.failed):,} of {made + len(outcome.failed):,} shards could not be made (see above); {made:,} are in {out}; "
            "mend what their lines say, and go on with the same command and --resume"
        )
    if share.count > 1:
        print_line(f"{made:,} shards of share {share} are in {out}; when all shares are done: jboost merge {in_shell(out)}")
        return None
    summary = merged(out, open_run(out), run_file)
    show(summary)
    return summary
