"""``jboost boost --on ray``: the options, and what is printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .shard_progress import shard_progress

if TYPE_CHECKING:
    from jboost.on_ray.run import Layout
    from jboost.shard_work import Outcome, ShardRun


@dataclass(frozen=True)
class RayCommand:
    """The options of `jboost boost --on ray`, and the method as other machines can be told it; see the command's help."""

    address: str | None
    workers: int | None
    gpus_per_worker: float | None
    allow_mixed: bool
    update: str | None
    preset: str | None
    values: Mapping[str, Any] = field(default_factory=dict)
    method: Mapping[str, Any] = field(default_factory=dict)


def check_on(on: str | None, given: Mapping[str, object], others: Mapping[str, object]) -> bool:
    """Whether the shards are made on Ray.

    Args:
        on: value of ``--on``.
        given: values of the options that only Ray has.
        others: values of the options that say otherwise where the shards are made.

    Raises:
        BadInputError: the options do not go together.
    """
    from jboost.engine.errors import BadInputError, printable

    if on is None:
        for option, value in given.items():
            if value is not None:
                raise BadInputError(f"{option} is of a run on Ray; add --on ray, or leave it out")
        return False
    if on != "ray":
        raise BadInputError(
            f"--on {printable(on[:60])}: only Ray is known; give --on ray, or leave it out for this process"
        )
    for option, value in others.items():
        if value is not None:
            raise BadInputError(f"--on ray hands out all shards to its workers; leave out {option}")
    return True


def boost_shards_on_ray(run: ShardRun, ray: RayCommand, *, bundle: Path, device: str, trust_code: bool) -> Outcome:
    """Make all shards of a run on Ray; a line for each on stderr.

    Raises:
        JboostError: see `jboost.on_ray.run.boost_on_ray`.
    """
    from jboost.on_ray.job import Job
    from jboost.on_ray.run import RayOptions, boost_on_ray

    job = Job(
        run, os.fspath(bundle), device, run.dtype, trust_code, ray.update, ray.values, ray.method, ray.preset
    )  # fmt: skip
    where = RayOptions(ray.address, ray.workers, ray.gpus_per_worker, ray.allow_mixed)
    total = len(run.plan.shards)
    with _own_stderr(), shard_progress(total) as progress:

        def on_start(layout: Layout, outcome: Outcome) -> None:
            each = f"{layout.gpus:g} GPU(s)" if layout.gpus else f"{layout.threads} thread(s)"
            engine = "" if outcome.record is None else f", engine {outcome.record.identity.get('engine')}"
            progress.say(f"Ray: {layout.workers:,} worker(s) with {each}{engine}")
            progress.say_before(outcome.before)
            progress.begin(outcome.before)

        return boost_on_ray(job, where, on_start=on_start, on_shard=progress.on_shard)


@contextmanager
def _own_stderr() -> Iterator[None]:
    """Keep ``sys.stderr`` for jboost: what Ray's C++ code writes to file descriptor 2 is dropped. Errors come as exceptions."""
    whole, kept = sys.stderr, os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    whole.flush()
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = open(kept, "w", encoding=whole.encoding, errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        sys.stderr = whole
        os.dup2(kept, 2)
        os.close(kept)
