"""The whole from the parts: which shards are missing, and the summary and run file of all of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.results.moved import warn_if_little_moved
from jboost.engine.results.run_file import read_reading, typed_summary, write_run
from jboost.engine.results.summary import Summary, image_means
from jboost.engine.samples.patterns import RUN
from jboost.engine.system.typed import as_bool, as_list, as_mapping, as_text

from .done import Records, clear, is_done, read_done
from .plan import Shard
from .record import RunRecord, read_record

#: Names of missing shards that a message gives.
_NAMED = 5


def open_run(out: Path) -> RunRecord:
    """The run over shards in a folder.

    Raises:
        BadInputError: there is none.
    """
    record = read_record(out)
    if record is None:
        raise BadInputError(
            f"{out} holds no run over shards ({RUN} is missing); make one with: jboost boost 'shards/*.tar' -o out/"
        )
    return record


def missing_shards(out: Path, record: RunRecord) -> list[Shard]:
    """The shards that are not done, in order."""
    return [shard for shard in record.plan.shards if not is_done(out, shard)]


def merged(out: Path, record: RunRecord, run_file: Path | None = None) -> Summary:
    """The summary of a finished run over shards; writes its run file.

    Its seconds are the time from the run's begin to its last shard, by the files' times.

    Args:
        out: the run's folder.
        record: from `open_run`.
        run_file: where to write the records of all images; see `jboost.engine.results.run_file.write_run`. None: nowhere.

    Raises:
        FailureError: shards are missing; the message says which, and what to do.
        BadInputError: a shard's records are damaged, or the run file cannot be written.
    """
    missing = missing_shards(out, record)
    if missing:
        names = ", ".join(shard.name for shard in missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
        raise FailureError(
            f"{len(missing):,} of {len(record.plan.shards):,} shards are missing in {out}: {names}; make them with the command "
            "that began the run and --resume"
        )
    clear(out, ())
    facts = record.facts
    try:
        template = typed_summary(as_mapping(facts["summary"], "summary"))
        labelled = as_bool(facts["labelled"], "labelled")
        reading = read_reading(facts["reading"])
        model = {key: as_text(value, key) for key, value in as_mapping(facts["model"], "model").items()}
        shown = facts["class_names"]
        class_names = (
            None if shown is None else [as_text(n, "a class name") for n in as_list(shown, "class_names", most=10**6)]
        )
    except (BadInputError, KeyError) as e:
        raise BadInputError(f"{out / RUN} is damaged ({e}); begin the run again in another folder") from e
    records: Records = np.concatenate([read_done(out, shard, record.digest) for shard in record.plan.shards])
    seconds = _seconds(out, record)
    values: dict[str, Any] = template | image_means(records, labelled)
    values |= {"seconds": seconds, "images_per_second": len(records) / seconds, "peak_memory": None, "snapshots": []}
    summary = Summary.of_dict(values)
    size = record.identity.get("size")
    if isinstance(size, list) and all(isinstance(side, int) for side in size):
        warn_if_little_moved(values, math.prod(size))
    if run_file is not None:
        write_run(
            run_file, records, summary.to_dict(), samples=record.plan.source, boosted=out, class_names=class_names, model=model,
            reading=reading,
        )  # fmt: skip
    return summary


def _seconds(out: Path, record: RunRecord) -> float:
    last = max((out / shard.name).stat().st_mtime for shard in record.plan.shards)
    return max(last - (out / RUN).stat().st_mtime, 1e-3)
