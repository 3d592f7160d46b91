"""What is done of a run over shards: the records of each shard, and its output, which is the mark that it is done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.results.run_file import read_records, write_records
from jboost.engine.samples import SampleSet, write_samples
from jboost.engine.samples.files import cannot_write
from jboost.engine.system.commands import in_shell
from jboost.engine.system.locks import check_no_writer
from jboost.engine.system.replacing import sweep

from .plan import Shard

RECORDS = "records"
Records = np.ndarray[Any, Any]


def records_file(out: Path, shard: Shard) -> Path:
    """The file of a shard's records."""
    return out / RECORDS / f"{shard.name}.npz"


def is_done(out: Path, shard: Shard) -> bool:
    """Whether a shard needs no more work: its output is there, and its records."""
    return (out / shard.name).is_file() and records_file(out, shard).is_file()


def clear(out: Path, done: Sequence[Shard]) -> None:
    """Remove what killed workers left in a run's folder: temporaries, and the locks of shards that are done."""
    for folder in (out, out / RECORDS):
        sweep(folder)
    for shard in done:
        with suppress(BadInputError):  # a live worker's, which is about to end
            check_no_writer(out / shard.name)


def write_done(
    out: Path,
    shard: Shard,
    samples: SampleSet,
    images: np.ndarray[Any, Any],
    records: Records,
    labels: np.ndarray[Any, Any] | None,
    *,
    run: str,
    lossy: bool,
) -> None:
    """Write a shard's records, then its output; each appears whole.

    Args:
        out: the run's folder.
        shard, samples: the shard and its input.
        images: uint8 [N, H, W, C], boosted.
        records: [N] of `jboost.engine.results.summary.RECORD`.
        labels: int64 [N] or None.
        run: the run's digest.
        lossy: whether JPEGs stay JPEGs.

    Raises:
        BadInputError: the system refused, for lack of room for example; nothing half-written stays.
    """
    try:
        (out / RECORDS).mkdir(exist_ok=True)
    except OSError as e:
        raise cannot_write(out / RECORDS, e) from e
    facts = {"run": run, "shard": shard.name, "input_bytes": shard.size}
    write_records(records_file(out, shard), records, facts)
    shape = (len(images), *samples.shape[1:])
    write_samples(out / shard.name, shape, iter([images]), labels=labels, source=samples, lossy=lossy)


def check_inputs(out: Path, sizes: Mapping[str, int], done: Sequence[Shard]) -> None:
    """Check that the inputs of finished shards have the sizes that they had.

    Args:
        out: the run's folder.
        sizes: the inputs' bytes when the run began, by shard.
        done: finished shards, as the inputs are now.

    Raises:
        BadInputError: an input has another size, and not because it was mended before its shard was made.
    """
    for shard in done:
        if shard.size == sizes.get(shard.name):
            continue
        try:
            made_from = read_records(records_file(out, shard))[0].get("input_bytes")
        except BadInputError:
            continue  # `read_done` says so
        if made_from != shard.size:
            raise BadInputError(
                f"{shard.path} has {shard.size:,} bytes, but {out / shard.name} was made when it had {made_from!r:.20}; put the "
                f"old file back, or have the shard made again: rm {in_shell(out / shard.name)}"
            )


def read_done(out: Path, shard: Shard, run: str) -> Records:
    """The records [N] of a shard that is done.

    Raises:
        BadInputError: they are damaged, or another run's.
    """
    path = records_file(out, shard)
    try:
        facts, records = read_records(path)
        if facts.get("run") != run or facts.get("shard") != shard.name:
            raise BadInputError("it is another run's")
    except BadInputError as e:
        both = f"rm {in_shell(path)} {in_shell(out / shard.name)}"
        raise BadInputError(
            f"{path} cannot be used ({e}); remove it and its shard, and boost again with --resume: {both}"
        ) from e
    return records
