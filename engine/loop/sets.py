"""Running several sets through one flight that never drains between them.

Early stopping frees slots at any time. Images of the next set enter them while the last images of this one still move, so
short sets cost no more than one long one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self

import numpy as np

from jboost.engine.method.settings import Settings

from .feed import OpenSet, SetFeed, SetWork
from .run import Chunk, Progress, ProgressCallback, Waiting, predicted_classes, turns
from .runner import Runner
from .scorer import Scorer
from .slots import Slots

__all__ = ["SetWork", "run_sets"]

Numpy = np.ndarray[Any, Any]

# Sets that are complete and wait to be written, or are being written. Beyond that no further set is opened.
_MOST_UNWRITTEN = 2


def run_sets(
    runner: Runner,
    sets: Iterable[SetWork],
    settings: Settings,
    *,
    batch_size: int,
    write: Callable[[SetWork], object] | None = None,
    on_progress: ProgressCallback | None = None,
) -> Iterator[SetWork]:
    """Boost sets one after another, with the slots full across them.

    Three threads take part. The caller's runs the loop whenever it asks for a set. One reads: it iterates `sets` and calls
    their `read`, at most one set and three batches ahead; the loop never waits for it while an image is in flight. One
    writes: it calls `write`, so that writing one set overlaps with boosting the next. Without `write` the loop rests while
    the caller holds a set.

    A set's bytes do not depend on the other sets. Its store is used in the caller's thread alone.

    Args:
        runner: the engine, bound to a bundle and an objective.
        sets: the sets, all with images of one shape and the same snapshots; the first one settles both. It may wait for more
            sets to come: while it does, the sets that are complete are handed out.
        settings: the update, early stopping and the seed.
        batch_size: the number of slots.
        write: called once with each complete set that has no error, one after another.
        on_progress: called at the end of each turn. It counts the images of the sets opened so far.

    Yields:
        Each set once, as they are completed and written. `SetWork.error` is set if it could not be read, kept or written;
        the other sets go on. Memory holds the sets with images in flight, one read ahead, two being written, and some
        batches.

    Raises:
        Exception: an error of computing, at once; an error that `sets` itself raises, after the sets before it.
    """
    news = threading.Condition()
    with _Writer(write, news) as writer, SetFeed(iter(sets), batch_size, news, writer.may_open) as feed:
        under_way = _UnderWay()
        scorer = Scorer(runner, batch_size, under_way)
        waiting = Waiting(_chunks(runner, feed, under_way, batch_size))
        slots: Slots | None = None
        while True:
            slots = slots or _slots(runner, settings, batch_size, feed.peek())
            for finished in turns(slots, waiting) if slots is not None else ():
                assert slots is not None
                scorer.take(slots.snapshots(), finished)
                if on_progress is not None:
                    done, realness = slots.under_way()
                    on_progress(Progress(under_way.total, under_way.before, scorer.count + done, realness))
                writer.put(under_way.completed())
                yield from writer.done()
            # Nothing moves and nothing is ready: no batch of results will become full.
            scorer.flush()
            writer.put(under_way.completed())
            with news:
                news.wait_for(lambda: feed.ready or writer.ready or (feed.ended and not writer.busy))
                ended = feed.ended and not writer.busy
            yield from writer.done()
            if ended:
                break
        for error in (feed.error, writer.error):
            if error is not None:
                raise error


def _slots(runner: Runner, settings: Settings, batch_size: int, first: SetWork | None) -> Slots | None:
    """The slots for sets like the `first` one; None while there is none."""
    if first is None:
        return None
    height, width, channels = first.shape
    return Slots(runner, settings, batch_size, (channels, height, width), tuple(first.store.snapshots))


def _chunks(runner: Runner, feed: SetFeed, under_way: _UnderWay, batch_size: int) -> Iterator[Chunk | None]:
    """The feed's images as they wait for slots; None whenever none is ready."""
    while True:
        yield _chunk(runner, feed, under_way, batch_size)  # a call of its own, which keeps no set alive


def _chunk(runner: Runner, feed: SetFeed, under_way: _UnderWay, batch_size: int) -> Chunk | None:
    while (piece := feed.take()) is not None:
        of, positions, images, error, unread = piece
        under_way.add(of)
        of.work.error = of.work.error or error
        if not len(positions):
            under_way.arrived(of, unread)
            continue
        labels = of.work.labels
        y = predicted_classes(runner, images, batch_size) if labels is None else labels[positions]
        return Chunk(images, y, of.first + positions, of.work.numbers[positions])
    return None


class _UnderWay:
    """The sets under way. Takes the scorer's results and hands each to its set's store.

    Attributes:
        total: images of the sets opened so far.
        before: those that were done before.
    """

    def __init__(self) -> None:
        self._open: list[OpenSet] = []  # in the order of their keys
        self._completed: list[SetWork] = []
        self.total = self.before = 0

    def add(self, opened: OpenSet) -> None:
        """Expect results of a set."""
        if opened not in self._open[-1:]:
            self._open.append(opened)
            self.total += len(opened.work.store.records)
            self.before += len(opened.work.store.records) - len(opened.todo)

    def put(self, indices: Numpy, images: Numpy, records: Numpy, step: int | None = None) -> None:
        """Keep results, or a snapshot after `step` steps; see `jboost.engine.loop.pipeline.WriteBehind.put`."""
        order = np.argsort(indices)
        of = np.searchsorted([opened.first for opened in self._open], indices[order], side="right") - 1
        for now, mine in [(self._open[at], order[of == at]) for at in np.unique(of)]:
            try:
                store = now.work.store if step is None else now.work.store.snapshots[step]
                store.put(indices[mine] - now.first, images[mine], records[mine])
            except Exception as e:  # of this set alone
                now.work.error = now.work.error or e
            if step is None:
                self.arrived(now, len(mine))

    def arrived(self, now: OpenSet, count: int) -> None:
        """Expect `count` results less of a set, because they are here or never will be; it is complete with the last one."""
        now.left -= count
        if now.left == 0:
            try:
                now.work.store.commit()
            except Exception as e:
                now.work.error = now.work.error or e
            self._open.remove(now)
            self._completed.append(now.work)

    def completed(self) -> list[SetWork]:
        """The sets completed since the last call."""
        completed, self._completed = self._completed, []
        return completed


class _Writer:
    """Calls `write` with one set after another in a thread. A context manager: leaving it waits until all are written."""

    def __init__(self, write: Callable[[SetWork], object] | None, news: threading.Condition):
        self._write, self._news = write, news
        self._unwritten: deque[SetWork] = deque()  # the first one is being written
        self._done: deque[SetWork] = deque()
        self._closed = False
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="jboost-write", daemon=True)

    def __enter__(self) -> Self:
        if self._write is not None:
            self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self._write is not None:
            self._thread.join()  # complete sets are finished work and are written even after an error

    def put(self, works: Iterable[SetWork]) -> None:
        """Take complete sets."""
        with self._news:
            for work in works:
                (self._done if self._write is None or work.error is not None else self._unwritten).append(work)
            self._news.notify_all()

    def done(self) -> Iterator[SetWork]:
        """The sets that are written. Does not wait."""
        while True:
            with self._news:
                if not self._done:
                    return
                work = self._done.popleft()
            yield work

    @property
    def ready(self) -> bool:
        """Whether a set is written. The caller holds `news`."""
        return bool(self._done)

    @property
    def busy(self) -> bool:
        """Whether a set is still to be written. The caller holds `news`."""
        return bool(self._unwritten)

    def may_open(self) -> bool:
        """Whether few enough sets wait. The caller holds `news`."""
        return len(self._unwritten) < _MOST_UNWRITTEN

    def _work(self) -> None:
        assert self._write is not None
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._unwritten)
                if not self._unwritten:
                    return
                work = self._unwritten[0]
            try:
                self._write(work)
            except Exception as e:  # of this set alone
                work.error = e
            except BaseException as e:  # raised again in the loop's thread
                self.error = e
            del work
            with self._news:
                self._done.append(self._unwritten.popleft())
                self._news.notify_all()
