"""``jboost boost`` over shards: a process for its share of them, or for all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from .devices import boost_on_devices, find_devices
from .json_output import STDOUT, write_json
from .notes import log_to
from .paths import check_paths
from .terminal import console, is_terminal, print_line

if TYPE_CHECKING:
    from jboost.booster import Booster
    from jboost.engine.method.settings import Settings
    from jboost.engine.samples import ReadOptions
    from jboost.engine.shards.plan import Shard
    from jboost.engine.shards.share import Share
    from jboost.shard_work import Outcome, ShardRun

#: Options that speak of one output file, and what to do about them.
_OF_ONE_FILE = {
    "--grid": "draw one from a shard: jboost boost SHARD --grid FILE",
    "--snapshots": "boost a shard alone for its snapshots",
}


@dataclass(frozen=True)
class ManyOptions:
    """The options of `jboost boost` that shards need; see its help."""

    sources: list[Path]
    output: Path | None
    bundle: Path
    engine: str
    dtype: str
    device: str
    batch_size: int | None
    trust_code: bool
    shard: str | None
    ranges: int | None
    devices: str | None
    resume: bool
    lossy: bool
    grid: Path | None
    snapshots: str | None
    run_file: Path | None
    json_file: str | None
    reading: ReadOptions

    def check(self) -> Path:
        """Refuse what shards have no use for; returns the folder of the outputs.

        Raises:
            BadInputError: there is such an option, or no folder.
        """
        from jboost.engine.errors import BadInputError

        for option, value in (("--grid", self.grid), ("--snapshots", self.snapshots)):
            if value is not None:
                raise BadInputError(f"{option} is of one file, not of shards; leave it out, or {_OF_ONE_FILE[option]}")
        for option, value in (("--json", self.json_file), ("--run", self.run_file)):
            if self.shard is not None and value is not None:
                raise BadInputError(
                    f"{option} is of the whole run; leave it out here, and at the end type: jboost merge OUT {option} FILE"
                )
        if self.output is None:
            raise BadInputError("shards need a folder for their outputs; name one: -o out/")
        return self.output


def boost_many(options: ManyOptions, settings_of: Callable[[Booster], Settings], show: Callable[..., None]) -> None:
    """Boost shards: a share of them, all, or all with a process per device.

    Args:
        options: the command's options.
        settings_of: the run's settings.
        show: prints a summary: (summary, out, stderr).

    Raises:
        BadInputError: the options, the inputs or the folder cannot be used.
        FailureError: a shard could not be made.
    """
    from jboost.booster import Booster
    from jboost.engine.shards.merge import merged, open_run
    from jboost.engine.shards.plan import make_plan
    from jboost.engine.shards.record import check_folder
    from jboost.engine.shards.share import WHOLE, parse_share
    from jboost.shard_work import ShardRun

    o = options
    out = o.check()
    share = WHOLE if o.shard is None else parse_share(o.shard, os.environ)
    places = find_devices(o.devices)
    workers = share.count * max(len(places), 1)
    ranges = o.ranges
    if ranges is None and workers > 1 and len(o.sources) == 1 and o.sources[0].is_file():
        ranges = workers if o.sources[0].suffix.lower() == ".npz" else None
    plan = make_plan(o.sources, ranges, o.reading)
    check_paths(outputs={"--run": o.run_file}, folders={"-o": out}, json_file=o.json_file, replaced=False)
    check_folder(out, plan)
    if places:
        boost_on_devices(places, share, out, plan)
        outcome = None
    else:
        run = ShardRun(plan, out, share, o.resume, o.reading, o.lossy, o.engine, o.batch_size, o.dtype)
        outcome = boost_share(
            run,
            lambda engine, batch_size: Booster(
                o.bundle, engine=engine, device=o.device, dtype=o.dtype, batch_size=batch_size, trust_code=o.trust_code
            ),
            settings_of,
        )
    if not finished(out, outcome, share if o.shard is not None else None):
        return
    summary = merged(out, open_run(out), o.run_file)
    show(summary, out, stderr=o.json_file == STDOUT)
    write_json(summary.to_dict(), o.json_file, stdout_indent=None)


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
    log_to(notes)
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
            line = (
                f"{shard.name}: {images:,} images, {speed:.1f} images/s" if error is None else f"{shard.name}: {error}"
            )
            notes.print(
                f"{line} ({counted[0]:,} of {total:,})" if error is None else line,
                style="dim" if error is None else None,
            )
            bar.update(task, advance=1)

        outcome = boost_shards(run, open_booster, settings_of, on_shard=on_shard)
        if outcome.before:
            notes.print(f"{outcome.before:,} of {total:,} shards were done before", style="dim")
    return outcome


def finished(out: Path, outcome: Outcome | None, share: Share | None) -> bool:
    """Whether all shards are done; says what came of a share.

    Args:
        out: the folder.
        outcome: what this process did; None: other processes did it.
        share: the share that the user asked for; None: all.

    Raises:
        FailureError: shards could not be made.
    """
    from jboost.engine.errors import FailureError
    from jboost.engine.system.commands import in_shell

    if outcome is not None and outcome.failed:
        made = outcome.before + outcome.done
        raise FailureError(
            f"{len(outcome.failed):,} of {made + len(outcome.failed):,} shards could not be made, see their lines; {made:,} are in "
            f"{out}; mend what the lines say, and go on with the same command and --resume"
        )
    if share is None:
        return True
    print_line(f"share {share} is in {out}; when all shares are: jboost merge {in_shell(out)}")
    return False
