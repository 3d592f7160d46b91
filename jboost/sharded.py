"""Boosting shards: a worker opens a `Booster`, obeys what the run's record settles, and makes one output per shard."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jboost.booster import Booster
from jboost.engine.errors import BadInputError, FailureError, JboostError
from jboost.engine.loop.sets import SetWork, run_sets
from jboost.engine.method.settings import Settings
from jboost.engine.results.identity import run_identity
from jboost.engine.results.run_file import reading_facts
from jboost.engine.results.store import MemoryStore
from jboost.engine.results.summary import RECORD, Summary
from jboost.engine.samples import ReadOptions, SampleSet, check_fit, check_output, labels_of
from jboost.engine.samples.naming import LOSSY_TEXT
from jboost.engine.samples.numbers import sample_numbers
from jboost.engine.shards.done import check_inputs, clear, is_done, write_done
from jboost.engine.shards.plan import Plan, Shard
from jboost.engine.shards.record import RunRecord, check_folder, check_same, read_record, settle
from jboost.engine.shards.share import WHOLE, Share
from jboost.engine.system.devices import device_kind
from jboost.engine.system.environment import thread_count
from jboost.engine.system.locks import only_writer

_log = logging.getLogger("jboost")
#: Opens the bundle with an engine's name and a batch size, which are those that the record settles.
OpenBooster = Callable[[str, int | None], Booster]


@dataclass(frozen=True)
class ShardRun:
    """What a worker is asked to do.

    Attributes:
        plan: all shards of the run.
        out: the folder of the outputs.
        share: which of the shards this worker makes.
        resume: leave out what is done; else it is an error that something is.
        reading: how shards are read.
        lossy: whether JPEGs stay JPEGs.
        engine: the engine's name; ``"auto"``: the run's, or the fastest for its first worker.
        batch_size: images in flight; None: the run's.
        dtype: precision of the network.
    """

    plan: Plan
    out: Path
    share: Share = WHOLE
    resume: bool = False
    reading: ReadOptions = field(default_factory=ReadOptions)
    lossy: bool = False
    engine: str = "auto"
    batch_size: int | None = None
    dtype: str = "fp32"


@dataclass
class Outcome:
    """What a worker did.

    Attributes:
        record: the run's record; None if no shard could be opened and there was none.
        before: shards that were done already.
        done: shards that this worker made.
        images: images in them.
        failed: by name, why a shard could not be made.
    """

    record: RunRecord | None = None
    before: int = 0
    done: int = 0
    images: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class _Opened:
    """A shard on its way: its images, its labels, and the lock of its output."""

    shard: Shard
    samples: SampleSet
    labels: np.ndarray[Any, Any] | None
    held: ExitStack


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
    threads_given = thread_count() > 0
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


class _Worker:
    def __init__(
        self,
        run: ShardRun,
        booster: Booster,
        settings: Settings,
        on_shard: Callable[[Shard, int, str | None], None],
        outcome: Outcome,
    ):
        self.run, self.booster, self.settings, self.outcome = run, booster, settings, outcome
        self._tell = on_shard
        self._size: list[int] = []
        self._labelled = False
        self._threads = thread_count()
        self._first: _Opened | None = None  # opening reads a whole tar, so it is done once
        self._held: list[ExitStack] = []

    def _failed(self, shard: Shard, error: Exception) -> None:
        self.outcome.failed[shard.name] = str(error)
        self._tell(shard, 0, str(error))

    def settle(self, old: RunRecord | None, todo: list[Shard]) -> bool:
        """Settle the run by its first usable shard, or check that it is the recorded one; False: another worker settled it."""
        if not todo:  # nothing to open, so nothing to settle: but another run's folder is noticed
            if old is not None:
                chosen = {"engine": self.run.engine, "batch_size": self.run.batch_size, "threads": self._threads}
                given = {key: value for key, value in chosen.items() if value not in (None, "auto", 0)}
                if old.identity.get("threads") is None:
                    given.pop("threads", None)  # on a GPU
                self._check(old, {**old.identity, **self._asked(), **given})
            return True
        size = old.identity.get("size") if old is not None else None
        labelled = old.identity.get("labelled") if old is not None else None
        for shard in todo if size is None else ():
            try:
                opened = self._open(shard)
            except (JboostError, OSError) as e:
                self._failed(shard, e)
                continue
            self._first = opened
            size, labelled = list(opened.samples.shape[1:]), opened.labels is not None
            break
        if not isinstance(size, list):
            return True  # every shard of this worker fails
        self._size, self._labelled = size, bool(labelled)
        self.runner, self.batch_size, self._passed_over = self.booster.open_for(self.settings, size[0])
        identity = self._asked() | {
            "engine": self.runner.name,
            "device": device_kind(self.runner.device),
            "batch_size": self.batch_size,
            "threads": thread_count() if device_kind(self.runner.device) == "cpu" else None,
            "size": size,
            "labelled": self._labelled,
        }
        if old is None:
            old = settle(self.run.out, RunRecord(identity, self.run.plan, self._facts()))
            differ = {key for key in identity if identity[key] != old.identity.get(key)}
            if differ and differ <= self._open_choices():
                return False
        self._check(old, identity)
        return True

    def _open_choices(self) -> set[str]:
        free = {"engine": self.run.engine == "auto", "batch_size": self.run.batch_size is None, "threads": True}
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
        identity["plan"] = identity.pop("input")
        del identity["images"], identity["engine"]
        return identity | {"shards": len(run.plan.shards), "lossy": run.lossy, "jboost": version("jboost")}

    def _facts(self) -> dict[str, Any]:
        config = self.booster.bundle.config
        summary = Summary.of_run(
            self.settings, np.zeros(1, RECORD), labelled=self._labelled, engine=self.runner.name, dtype=self.runner.dtype,
            device=self.runner.device, batch_size=self.batch_size, finished=0, seconds=1.0,
            engines_failed=self._passed_over, lossy=LOSSY_TEXT if self.run.lossy else None,
        )  # fmt: skip
        return {
            "summary": summary.to_dict(),
            "labelled": self._labelled,
            "reading": reading_facts(self.run.reading),
            "class_names": None if config.class_names is None else list(config.class_names),
            "model": {"architecture": config.architecture, "sha256": config.source["sha256"]},
        }

    def _open(self, shard: Shard) -> _Opened:
        """Open a shard that fits the model.

        Raises:
            BadInputError: it cannot be used.
        """
        if self._first is not None and self._first.shard is shard:
            opened, self._first = self._first, None
            return opened
        config = self.booster.bundle.config
        samples = shard.open(replace(self.run.reading, channels=config.in_channels))
        labels = labels_of(samples, class_names=config.class_names, num_classes=config.num_classes)
        check_fit(
            labels, samples.shape, num_classes=config.num_classes, in_channels=config.in_channels,
            resolutions=config.resolutions,
        )  # fmt: skip
        return _Opened(shard, samples, labels, ExitStack())

    def _check_like_others(self, opened: _Opened) -> None:
        path, size, labels = opened.shard.path, list(opened.samples.shape[1:]), opened.labels
        if size != self._size:
            raise BadInputError(
                f"{path} has images {size}, the run's first shard has {self._size}; boost it on its own"
            )
        if (labels is not None) != self._labelled:
            raise BadInputError(
                f"{path} has {'no ' if labels is None else ''}labels, but the run's first shard has "
                f"{'some' if self._labelled else 'none'}; boost it on its own, or all without: --labels-key none"
            )

    def _set(self, shard: Shard, held: ExitStack) -> SetWork:
        """A shard as the loop takes it, while `held` keeps the lock of its output."""
        opened = self._open(shard)
        opened.held = held
        self._check_like_others(opened)
        shape = opened.samples.shape
        check_output(self.run.out / shard.name, opened.samples, bytes_needed=int(np.prod(shape)), lossy=self.run.lossy)
        numbers = sample_numbers(opened.samples)
        return SetWork(opened, opened.samples.read, opened.labels, numbers, MemoryStore(shape), shape[1:])

    def _sets(self, todo: Iterable[Shard], told: bool) -> Iterator[SetWork]:
        """The shards one after another; those that another process writes come last, unless it has made them by then.

        A worker that is told its shards waits for that process instead, because its shards may never end.
        """
        later: list[Shard] = []
        for shard, waits in chain(((shard, told) for shard in todo), ((shard, True) for shard in later)):
            held = ExitStack()
            try:
                held.enter_context(only_writer(self.run.out / shard.name, on_wait=_log.info if waits else None))
            except BadInputError:
                later.append(shard)
                continue
            self._held.append(held)
            if is_done(self.run.out, shard):
                held.close()
                self.outcome.before += 1
                if told:
                    self._tell(shard, 0, None)
                continue
            try:
                work = self._set(shard, held)
            except (JboostError, OSError) as e:
                held.close()
                self._failed(shard, e)
                continue
            yield work

    def work(self, todo: Iterable[Shard], *, told: bool = False) -> None:
        """Boost the shards, and write each while the next ones move; `told`: see `make_shards`."""
        if not todo:
            return
        assert self.outcome.record is not None
        digest = self.outcome.record.digest

        def write(work: SetWork) -> None:
            opened = work.key
            assert isinstance(opened, _Opened)
            assert isinstance(work.store, MemoryStore)
            write_done(
                self.run.out, opened.shard, opened.samples, work.store.images, work.store.records, opened.labels, run=digest,
                lossy=self.run.lossy,
            )  # fmt: skip
            opened.held.close()

        with ExitStack() as at_the_end:
            at_the_end.callback(self._release_all)
            for work in run_sets(
                self.runner, self._sets(todo, told), self.settings, batch_size=self.batch_size, write=write
            ):
                opened = work.key
                assert isinstance(opened, _Opened)
                opened.held.close()
                if work.error is None:
                    self.outcome.done += 1
                    self.outcome.images += opened.samples.shape[0]
                    self._tell(opened.shard, opened.samples.shape[0], None)
                elif isinstance(work.error, JboostError | OSError):
                    self._failed(opened.shard, work.error)
                else:
                    raise work.error

    def _release_all(self) -> None:
        for held in self._held:
            held.close()
