"""A worker of a run over shards: it opens each shard, boosts it with the slots full across shards, and has it written."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jboost.booster import Booster
from jboost.engine.errors import BadInputError, JboostError
from jboost.engine.loop.runner import Runner
from jboost.engine.loop.sets import SetWork, run_sets
from jboost.engine.method.labels import GIVEN, OF_SHARDS, check_not_debiased, labels_used
from jboost.engine.method.settings import Settings
from jboost.engine.results.store import MemoryStore
from jboost.engine.samples import ReadOptions, SampleSet, check_fit, check_output, labels_of
from jboost.engine.samples.numbers import sample_numbers
from jboost.engine.shards.done import is_done, write_done
from jboost.engine.shards.plan import Plan, Shard
from jboost.engine.shards.record import RunRecord
from jboost.engine.shards.share import WHOLE, Share
from jboost.engine.system.locks import only_writer
from jboost.out_of_memory import out_of_memory

_log = logging.getLogger("jboost")


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
class Opened:
    """A shard on its way: its images, its labels, and the lock of its output."""

    shard: Shard
    samples: SampleSet
    labels: np.ndarray[Any, Any] | None
    held: ExitStack


class ShardWorker:
    """Makes shards with one engine.

    Args:
        run: what to do.
        booster: the opened bundle.
        settings: the run's settings.
        on_shard: see `jboost.sharded.boost_shards`.
        outcome: counts what is done.
    """

    runner: Runner
    batch_size: int

    def __init__(
        self,
        run: ShardRun,
        booster: Booster,
        settings: Settings,
        on_shard: Callable[[Shard, int, str | None], None],
        outcome: Outcome,
    ):
        check_not_debiased(settings.labels, OF_SHARDS)
        self.run, self.booster, self.settings, self.outcome = run, booster, settings, outcome
        self._tell = on_shard
        self.size: list[int] = []  # height, width and channels of the run's images
        self.labelled = False
        self.first: Opened | None = None  # opening reads a whole tar, so it is done once
        self._held: list[ExitStack] = []

    def failed(self, shard: Shard, error: Exception) -> None:
        """Count a shard that cannot be made."""
        self.outcome.failed[shard.name] = str(error)
        self._tell(shard, 0, str(error))

    def open(self, shard: Shard) -> Opened:
        """Open a shard that fits the model.

        Raises:
            BadInputError: it cannot be used.
        """
        if self.first is not None and self.first.shard is shard:
            opened, self.first = self.first, None
            return opened
        config = self.booster.bundle.config
        samples = shard.open(replace(self.run.reading, channels=config.in_channels))
        labels = labels_of(samples, class_names=config.class_names, num_classes=config.num_classes)
        check_fit(
            labels, samples.shape, num_classes=config.num_classes, in_channels=config.in_channels,
            resolutions=config.resolutions,
        )  # fmt: skip
        labels_used(
            self.settings.labels, labels is not None, samples.path
        )  # refuses where labels are asked for in vain
        return Opened(shard, samples, labels, ExitStack())

    def _check_like_others(self, opened: Opened) -> None:
        path, size, labels = opened.shard.path, list(opened.samples.shape[1:]), opened.labels
        if size != self.size:
            raise BadInputError(f"{path} has images {size}, the run's first shard has {self.size}; boost it on its own")
        if (labels is not None) != self.labelled:
            raise BadInputError(
                f"{path} has {'no ' if labels is None else ''}labels, but the run's first shard has "
                f"{'some' if self.labelled else 'none'}; boost it on its own, or all without: --labels-key none"
            )

    def _set(self, shard: Shard, held: ExitStack) -> SetWork:
        """A shard as the loop takes it, while `held` keeps the lock of its output."""
        opened = self.open(shard)
        opened.held = held
        self._check_like_others(opened)
        shape = opened.samples.shape
        check_output(self.run.out / shard.name, opened.samples, bytes_needed=int(np.prod(shape)), lossy=self.run.lossy)
        numbers = sample_numbers(opened.samples)
        climbed = opened.labels if self.settings.labels in (None, GIVEN) else None
        return SetWork(opened, opened.samples.read, climbed, numbers, MemoryStore(shape), shape[1:])

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
                self.failed(shard, e)
                continue
            yield work

    def work(self, todo: Iterable[Shard], *, told: bool = False) -> None:
        """Boost the shards, and write each while the next ones move."""
        if not todo:
            return
        assert self.outcome.record is not None
        digest = self.outcome.record.digest

        def write(work: SetWork) -> None:
            opened = work.key
            assert isinstance(opened, Opened)
            assert isinstance(work.store, MemoryStore)
            write_done(
                self.run.out, opened.shard, opened.samples, work.store.images, work.store.records, opened.labels, run=digest,
                lossy=self.run.lossy,
            )  # fmt: skip
            opened.held.close()

        with ExitStack() as at_the_end:
            at_the_end.callback(self._release_all)
            for work in self._boosted(todo, write, told):
                opened = work.key
                assert isinstance(opened, Opened)
                opened.held.close()
                if work.error is None:
                    self.outcome.done += 1
                    self.outcome.images += opened.samples.shape[0]
                    self._tell(opened.shard, opened.samples.shape[0], None)
                elif isinstance(work.error, JboostError | OSError):
                    self.failed(opened.shard, work.error)
                else:
                    raise work.error

    def _boosted(self, todo: Iterable[Shard], write: Callable[[SetWork], None], told: bool) -> Iterator[SetWork]:
        """The shards as they are boosted and written.

        Raises:
            FailureError: the GPU's memory does not suffice.
        """
        remedy = "free some and go on with --resume, or begin again with a smaller batch (-b) in another folder (-o)"
        with out_of_memory(self.batch_size, remedy):
            yield from run_sets(
                self.runner, self._sets(todo, told), self.settings, batch_size=self.batch_size, write=write
            )

    def _release_all(self) -> None:
        for held in self._held:
            held.close()
