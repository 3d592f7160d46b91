"""``jboost boost`` over shards: a process for its share of them, or for all."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .devices import boost_on_devices, find_devices
from .json_output import STDOUT, write_json
from .notes import log_to
from .on_ray import RayCommand, boost_shards_on_ray
from .paths import check_paths
from .shard_progress import shard_progress
from .terminal import console, print_line

if TYPE_CHECKING:
    from jboost.booster import Booster
    from jboost.engine.method.settings import Settings
    from jboost.engine.samples import ReadOptions
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
    ray: RayCommand | None = None

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
    workers = share.count * max(len(places), 1) if o.ray is None else o.ray.workers or 1
    ranges = o.ranges
    if ranges is None and workers > 1 and len(o.sources) == 1 and o.sources[0].is_file():
        ranges = workers if o.sources[0].suffix.lower() == ".npz" else None
    plan = make_plan(o.sources, ranges, o.reading)
    check_paths(outputs={"--run": o.run_file}, folders={"-o": out}, json_file=o.json_file, replaced=False)
    check_folder(out, plan)
    run = ShardRun(plan, out, share, o.resume, o.reading, o.lossy, o.engine, o.batch_size, o.dtype)
    if places:
        boost_on_devices(places, share, out, plan)
        outcome = None
    elif o.ray is not None:
        outcome = boost_shards_on_ray(run, o.ray, bundle=o.bundle, device=o.device, trust_code=o.trust_code)
    else:
        outcome = boost_share(
            run,
            lambda engine, batch_size: Booster(
                o.bundle, engine=engine, device=o.device, dtype=o.dtype, batch_size=batch_size, trust_code=o.trust_code
            ),
            settings_of,
        )
    if not finished(out, outcome, share if o.shard is not None else None):
        return
    log_to(console(stderr=True))
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
    from jboost.sharded import boost_shards

    total = len(run.plan.shards[run.share.index :: run.share.count])
    if not total:
        console(stderr=True).print(f"share {run.share} has none of the {len(run.plan.shards):,} shards", style="dim")
    with shard_progress(total) as progress:
        log_to(progress.notes)
        outcome = boost_shards(run, open_booster, settings_of, on_shard=progress.on_shard)
        progress.say_before(outcome.before)
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
