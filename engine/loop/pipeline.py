"""Reading ahead and writing behind in two threads, so the device does not wait for the disk.

Both queues are bounded, so memory depends on the batch size, not on the set. Decoding, file access, numpy's copies and
the backends release Python's global lock, so the threads overlap.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any, Self

import numpy as np

from jboost.engine.results.store import Store

Numpy = np.ndarray[Any, Any]

#: Reads images uint8 [n, H, W, C] at ascending indices.
Reader = Callable[[Numpy], Numpy]

_AHEAD = 2  # chunks read ahead
_BEHIND = 4  # batches of results that wait to be written
_END = None
# Results are committed in groups: at most this many seconds after they were handed in, and sooner where the disk is fast
# enough that committing takes a twentieth of the time.
_COMMIT_SECONDS, _COMMIT_SHARE = 2.0, 0.05


class ReadAhead:
    """Chunks of a sample set, which a thread reads while earlier chunks are in use. A context manager and an iterator.

    Args:
        read: reads the images; only the thread calls it.
        indices: int64 [n], ascending, the images to read.
        chunk: images per chunk.
    """

    def __init__(self, read: Reader, indices: Numpy, chunk: int):
        self._read, self._chunks = read, [indices[i : i + chunk] for i in range(0, len(indices), chunk)]
        self._queue: queue.Queue[Any] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="jboost-read", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        while self._thread.is_alive():  # it may be waiting for room in the queue
            _drain(self._queue)
            self._thread.join(0.01)

    def _work(self) -> None:
        try:
            for indices in self._chunks:
                if self._stop.is_set():
                    return
                self._queue.put((indices, self._read(indices)))
            self._queue.put(_END)
        except BaseException as e:  # the iterator raises it again in the caller's thread
            self._queue.put(e)

    def __iter__(self) -> Iterator[tuple[Numpy, Numpy]]:
        """(indices, images) in order.

        Raises:
            Exception: any error from reading.
        """
        while (item := self._queue.get()) is not _END:
            if isinstance(item, BaseException):
                raise item
            yield item


class WriteBehind:
    """Puts results into a store from a thread, and commits them in groups.

    A context manager: leaving it waits until all results are written and committed.

    Args:
        store: receives the results; until the end, only the thread uses it.
    """

    def __init__(self, store: Store):
        self._store = store
        self._queue: queue.Queue[Any] = queue.Queue(_BEHIND)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="jboost-write", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._queue.put(_END)  # results that were handed in before an error are finished work and are written too
        self._thread.join()
        if self._error is not None and exc[0] is None:
            raise self._error

    def put(self, indices: Numpy, images: Numpy, records: Numpy, step: int | None = None) -> None:
        """Hand in results in any order, or a snapshot after `step` steps. They are written in the order of these calls.

        See `jboost.engine.results.store.Store.put`.

        Raises:
            Exception: an error from writing earlier results.
        """
        if self._error is not None:
            raise self._error
        order = np.argsort(indices)
        self._queue.put((step, indices[order], images[order], records[order]))

    def _work(self) -> None:
        due: float | None = None  # when to commit what was put since the last time
        earliest = monotonic()  # when the last commit has taken its share of the time
        item: Any = ()
        while item is not _END:
            try:
                item = self._queue.get(timeout=None if due is None else max(0.0, due - monotonic()))
            except queue.Empty:
                item = ()
            if self._error is not None:
                due = None
                continue
            try:
                if item:
                    step, *results = item
                    (self._store if step is None else self._store.snapshots[step]).put(*results)
                    due = due or max(monotonic(), earliest)
                if due is not None and (item is _END or due <= monotonic()):
                    start, due = monotonic(), None
                    self._store.commit()
                    took = monotonic() - start
                    earliest = start + took + min(took / _COMMIT_SHARE, _COMMIT_SECONDS)
            except BaseException as e:  # raised again by the next `put`, or at the end
                self._error = e


def _drain(waiting: queue.Queue[Any]) -> None:
    while True:
        try:
            waiting.get_nowait()
        except queue.Empty:
            return
