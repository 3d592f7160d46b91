"""What runs in Ray's processes: the run is settled once, then each worker holds a bundle open and makes the shards it is told."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np

from jboost.engine.shards.plan import Shard
from jboost.engine.shards.record import RunRecord
from jboost.engine.system.devices import device_kind
from jboost.shard_work import Outcome
from jboost.sharded import boost_shards, make_shards

from .job import Job
from .machines import check_kinds, machine_kind
from .tries import MOST, count_try, forget_try

#: Shards that a worker has at once: one moves, and the next is read ahead or the last one written.
AT_ONCE = 2


class Settled(NamedTuple):
    """A run whose record is written, and the kind of the machine that chose its engine."""

    outcome: Outcome
    kind: str
    host: str


def settle(job: Job) -> Settled:
    """Choose engine, dtype and batch size, compile what the bundle lacks, and write the run's record.

    Raises:
        JboostError: see `jboost.sharded.boost_shards`.
    """
    job.enter()
    outcome = boost_shards(job.run, job.open, job.settings, make=False)
    return Settled(outcome, _kind(outcome.record), socket.gethostname())


def node_kind() -> tuple[str, str]:
    """This machine's name and the kind of its CPU."""
    return socket.gethostname(), machine_kind(gpu=False)


def _kind(record: RunRecord | None) -> str:
    return machine_kind(gpu=record is not None and device_kind(str(record.identity.get("device"))) == "cuda")


def _row(shard: Shard, images: int, error: str | None) -> dict[str, Any]:
    return {"shard": [shard.name], "images": np.array([images]), "error": [error or ""]}


class ShardWorker:
    """Makes shards. An actor of Ray Data: it is called with one row at a time, from `AT_ONCE` threads.

    Args:
        job: the run.
        record: what was settled.
        same_as: the name and kind of the machine that settled the run; None: any kind may take part.

    Raises:
        JboostError: the bundle or the device cannot be used here, or this machine is of another kind.
    """

    def __init__(self, job: Job, record: RunRecord, same_as: tuple[str, str] | None):
        job.enter()
        if same_as is not None:
            check_kinds({same_as[0]: same_as[1], f"{socket.gethostname()} (a worker)": _kind(record)})
        self._out = job.run.out
        self._shards = {shard.name: shard for shard in job.run.plan.shards}
        self._todo: queue.SimpleQueue[Shard] = queue.SimpleQueue()
        self._waiting: dict[str, Future[tuple[int, str | None]]] = {}
        self._ended: BaseException | None = None
        self._opened: Future[None] = Future()
        self._lock = threading.Lock()
        threading.Thread(target=self._work, args=(job, record), name="jboost-worker", daemon=True).start()
        self._opened.result()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make the shard of a row; returns its number of images, and the error if it could not be made."""
        shard = self._shards[str(row["shard"][0])]
        tries = self._tries(shard)
        if tries > MOST:
            why = f"the worker that makes it died {MOST} times; if memory is short, make smaller shards or give a smaller -b"
            return _row(shard, 0, why)
        future: Future[tuple[int, str | None]] = Future()
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._waiting[shard.name] = future
        self._todo.put(shard)
        images, error = future.result()
        forget_try(self._out, shard)
        return _row(shard, images, error)

    def _tries(self, shard: Shard) -> int:
        try:
            return count_try(self._out, shard)
        except OSError:  # the folder cannot be written, which the shard's own error will say
            return 0

    def _arriving(self) -> Iterator[Shard]:
        if not self._opened.done():
            self._opened.set_result(None)
        while True:
            yield self._todo.get()

    def _finished(self, shard: Shard, images: int, error: str | None) -> None:
        with self._lock:
            future = self._waiting.pop(shard.name)
        future.set_result((images, error))

    def _work(self, job: Job, record: RunRecord) -> None:
        try:
            make_shards(job.run, record, job.open, job.settings, self._arriving(), on_shard=self._finished)
        except BaseException as e:
            with self._lock:
                self._ended = e
                waiting: list[Future[Any]] = [self._opened, *self._waiting.values()]
            for future in waiting:
                if not future.done():
                    future.set_exception(e)
