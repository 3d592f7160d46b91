"""Boosting shards: a worker opens a `Booster`, obeys what the run's record settles, and makes one output per shard."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from jboost.booster import Booster
from jboost.calibration import calibrated, kept_step_size, with_step_size
from jboost.engine.errors import BadInputError, FailureError, JboostError
from jboost.engine.method.auto_step import Aim
from jboost.engine.method.labels import DEFAULT, GIVEN, PREDICTED, labels_used
from jboost.engine.method.settings import Settings
from jboost.engine.results.identity import run_identity
from jboost.engine.results.run_file import reading_facts
from jboost.engine.results.summary import RECORD, Summary
from jboost.engine.samples.naming import LOSSY_TEXT
from jboost.engine.shards.done import check_inputs, clear, is_done
from jboost.engine.shards.plan import Shard
from jboost.engine.shards.record import RunRecord, check_folder, check_same, read_record, settle
from jboost.engine.system.devices import device_kind
from jboost.engine.system.environment import thread_count
from jboost.probing import PROBE, PROBED_SHARDS, Probed, evenly, probe_of
from jboost.shard_work import Outcome, ShardRun, ShardWorker

#: Opens the bundle with an engine's name and a batch size, which are those that the record settles.
OpenBooster = Callable[[str, int | None], Booster]


def boost_shards(
    run: ShardRun,
    open_booster: OpenBooster,
    settings_of: Callable[[Booster], Settings],
    *,
    on_shard: Callable[[Shard, int, str | None], None] = lambda shard, images, error: None,
    make: bool = True,
) -> Outcome:
    """Make a worker's shards.

    Args:
        run: what to do.
        open_booster: opens the bundle.
        settings_of: the run's settings.
        on_shard: called after each shard with its number of images, and the error if it could not be made.
        make: False: settle the run and make nothing, for a driver that tells workers their shards (`make_shards`).

    Raises:
        BadInputError: the folder, the settings or the engine cannot be used, or the folder holds another run.
        FailureError: computing failed.
    """
    check_folder(run.out, run.plan)
    threads_given = thread_count()
    mine = run.plan.shards[run.share.index :: run.share.count]
    for _ in range(2):  # another worker may settle the run while this one chooses an engine
        old = read_record(run.out)
        done = [shard for shard in mine if is_done(run.out, shard)] if old is not None else []
        if done and not run.resume:
            raise BadInputError(
                f"{len(done):,} of {len(mine):,} shards are done in {run.out} (first: {done[0].name}); go on with --resume, or "
                "name another -o"
            )
        if old is not None:
            check_inputs(run.out, {shard.name: shard.size for shard in old.plan.shards}, done)
        if not threads_given:
            _set_threads(old)
        engine = str(old.identity.get("engine")) if old is not None and run.engine == "auto" else run.engine
        batch_size = run.batch_size
        if batch_size is None and old is not None and isinstance(old.identity.get("batch_size"), int):
            batch_size = old.identity["batch_size"]
        with open_booster(engine, batch_size) as booster:
            worker = _Worker(run, booster, settings_of(booster), on_shard, Outcome(old, before=len(done)))
            worker.threads = threads_given
            finished = {shard.name for shard in done}
            if worker.settle(old, [shard for shard in mine if shard.name not in finished]):
                clear(run.out, done)
                if make:
                    worker.work([shard for shard in mine if shard.name not in {*finished, *worker.outcome.failed}])
                return worker.outcome
    raise FailureError(f"{run.out}: other workers settle the run again and again; start them one after another")


def make_shards(
    run: ShardRun,
    record: RunRecord,
    open_booster: OpenBooster,
    settings_of: Callable[[Booster], Settings],
    shards: Iterable[Shard],
    *,
    on_shard: Callable[[Shard, int, str | None], None],
) -> None:
    """Make shards of a settled run as they come, for a worker that is told which.

    Args:
        run, open_booster, settings_of, on_shard: as for `boost_shards`.
        record: what was settled.
        shards: of the run. They may come slowly: the images of one shard move while the next is waited for. The first is asked
            for once the engine is open. `on_shard` is called for each, also for one that was done before, with no images.

    Raises:
        BadInputError: as for `boost_shards`.
        FailureError: computing failed.
    """
    if not thread_count():
        _set_threads(record)
    with open_booster(str(record.identity["engine"]), record.identity["batch_size"]) as booster:
        worker = _Worker(run, booster, settings_of(booster), on_shard, Outcome(record))
        worker.settle(record, list(run.plan.shards[:1]))
        worker.work(shards, told=True)


def _set_threads(old: RunRecord | None) -> None:
    """Use the run's number of threads, and say a number in any case: the default of another machine is another one."""
    settled = old.identity.get("threads") if old is not None else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = settled if isinstance(settled, int) and settled > 0 else cores
    os.environ["OMP_NUM_THREADS"] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


class _Worker(ShardWorker):
    """A worker that first settles what the run is, or obeys what another one settled."""

    threads = 0  # that the user asked for; 0: as the run has it
    _passed_over: Mapping[str, str]

    def settle(self, old: RunRecord | None, todo: list[Shard]) -> bool:
        """Settle the run by its first usable shard, or check that it is the recorded one; False: another worker settled it."""
        if old is not None and (kept := kept_step_size(old.identity, self.settings)) is not None:
            self.settings = with_step_size(self.settings, kept)
        if not todo:  # nothing to open, so nothing to settle: but another run's folder is noticed
            if old is not None:
                chosen = {"engine": self.run.engine, "batch_size": self.run.batch_size, "threads": self.threads}
                given = {key: value for key, value in chosen.items() if value not in (None, "auto", 0)}
                if old.identity.get("threads") is None:
                    given.pop("threads", None)  # on a GPU
                self._check(old, {**old.identity, **self._asked(), **given})
            return True
        size = old.identity.get("size") if old is not None else None
        labelled = old.identity.get("labelled") if old is not None else None
        for shard in todo if size is None else ():
            try:
                opened = self.open(shard)
            except (JboostError, OSError) as e:
                self.failed(shard, e)
                continue
            self.first = opened
            size, labelled = list(opened.samples.shape[1:]), opened.labels is not None
            break
        if not isinstance(size, list):
            return True  # every shard of this worker fails
        self.size, self.labelled = size, bool(labelled)
        self.runner, self.batch_size, self._passed_over = self.booster.open_for(self.settings, size[0])
        if old is None:
            self.settings = calibrated(self.runner, self.settings, self._probe(), self.batch_size)
        identity = self._asked() | {
            "engine": self.runner.name,
            "device": device_kind(self.runner.device),
            "batch_size": self.batch_size,
            "threads": thread_count() if device_kind(self.runner.device) == "cpu" else None,
            "size": size,
            "labelled": self.labelled,
        }
        if old is None:
            old = settle(self.run.out, RunRecord(identity, self.run.plan, self._facts()))
            differ = {key for key in identity if identity[key] != old.identity.get(key)}
            if differ and differ <= self._open_choices():
                return False
        self._check(old, identity)
        return True

    def _probe(self) -> Iterator[Probed]:
        """Images of the shards that ``--step-size auto`` measures: the same ones, whichever worker settles the run."""
        chosen = evenly(len(self.run.plan.shards), PROBED_SHARDS)
        for shard in (self.run.plan.shards[i] for i in chosen):
            try:
                opened = self.first if self.first is not None and self.first.shard is shard else self.open(shard)
            except (JboostError, OSError):
                continue  # its own worker says so
            shape = opened.samples.shape
            if list(shape[1:]) == self.size and (opened.labels is not None) == self.labelled:
                climbed = opened.labels if self.settings.labels in (None, GIVEN) else None
                yield probe_of(opened.samples.read, climbed, shape[0], PROBE // len(chosen))

    def _open_choices(self) -> set[str]:
        free = {"engine": self.run.engine == "auto", "batch_size": self.run.batch_size is None, "threads": True}
        # Engines may differ in the last digit of a step size. A stated one cannot differ by itself.
        free |= dict.fromkeys(("step_size", "update"), self.settings.aim != Aim())
        return {key for key, is_free in free.items() if is_free}

    def _check(self, old: RunRecord, identity: dict[str, Any]) -> None:
        check_same(self.run.out, old.identity, identity)
        self.outcome.record = old

    def _asked(self) -> dict[str, Any]:
        """What of the identity the user states."""
        run, booster = self.run, self.booster
        identity = run_identity(
            self.settings, fingerprint=run.plan.digest(run.reading), images=0, bundle=booster.bundle.digest, engine="",
            dtype=run.dtype,
        )  # fmt: skip
        # Stated even at their defaults: what is left out here would be taken from the record of a finished run.
        identity["rounding"] = self.settings.rounding
        identity["labels"] = PREDICTED if self.settings.labels == PREDICTED else DEFAULT
        identity["plan"] = identity.pop("input")
        del identity["images"], identity["engine"]
        return identity | {"shards": len(run.plan.shards), "lossy": run.lossy, "jboost": version("jboost")}

    def _facts(self) -> dict[str, Any]:
        config = self.booster.bundle.config
        summary = Summary.of_run(
            self.settings, np.zeros(1, RECORD), labelled=self.labelled, engine=self.runner.name, dtype=self.runner.dtype,
            device=self.runner.device, batch_size=self.batch_size, finished=0, seconds=1.0,
            engines_failed=self._passed_over, lossy=LOSSY_TEXT if self.run.lossy else None,
        )  # fmt: skip
        return {
            "summary": summary.to_dict(),
            "labelled": labels_used(self.settings.labels, self.labelled) == GIVEN,
            "reading": reading_facts(self.run.reading),
            "class_names": None if config.class_names is None else list(config.class_names),
            "model": {"architecture": config.architecture, "sha256": config.source["sha256"]},
        }
