"""Reading several sets one after another in a thread, for a loop that must not wait for them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.results.store import Store

from .pipeline import Reader

Numpy = np.ndarray[Any, Any]

_AHEAD = 2  # batches that wait; one more is being read
_PATIENCE = 2.0  # seconds to wait for a thread whose results nobody wants any more


@dataclass(eq=False)
class SetWork:
    """A set to boost, and what became of it.

    Attributes:
        key: whatever the caller knows the set by.
        read: reads images uint8 [n, H, W, C] at ascending positions; called from the reading thread.
        labels: int64 [N], or None to take c = argmax f(x0), as in algorithm 1.
        numbers: int64 [N], the numbers that key the images' noise, in [0, 2^63).
        store: receives the results by position; its records say which images are done already.
        shape: (H, W, C) of an image.
        error: why the set is not whole: its images could not be read, or its results not kept or written.
    """

    key: object
    read: Reader
    labels: Numpy | None
    numbers: Numpy
    store: Store
    shape: tuple[int, int, int]
    error: Exception | None = None


class OpenSet:
    """A set that is on its way.

    Attributes:
        work: the set.
        first: the loop's key of the image at position 0; the others follow.
        todo: int64, ascending, the positions of the images to boost.
        left: images of which no result has come yet.
    """

    def __init__(self, work: SetWork, first: int):
        self.work, self.first = work, first
        self.todo = np.flatnonzero(~work.store.records["done"])
        self.left = len(self.todo)


class Piece(NamedTuple):
    """What the reading thread hands over.

    Attributes:
        of: the set.
        positions: int64 [n], ascending; none for a set without images to boost, or with an error.
        images: uint8 [n, H, W, C].
        error: why the rest of the set cannot be read.
        unread: images of the set that will not come.
    """

    of: OpenSet
    positions: Numpy
    images: Numpy
    error: Exception | None = None
    unread: int = 0


class SetFeed:
    """Pieces of sets, in order, which a thread reads ahead. A context manager.

    A set is opened when every piece of the one before has been read and fewer than two batches wait. So besides the sets
    whose images have left the feed, it holds one set and three batches of images.

    Args:
        sets: iterated in the thread. If it raises an error, the feed ends with that error.
        size: images per piece.
        news: notified when a piece is ready or the feed has ended.
        may_open: whether to open a set now; asked again after each notification of `news`.

    Attributes:
        error: the error of `sets`, set before the feed ends.
    """

    def __init__(
        self, sets: Iterator[SetWork], size: int, news: threading.Condition, may_open: Callable[[], bool] = lambda: True
    ):
        self._sets, self._size, self._news, self._may_open = sets, size, news, may_open
        self._pieces: deque[Piece] = deque()
        self._waiting = 0  # images in `_pieces`; a piece without images counts as one
        self._stopped = self._ended = False
        self._shape: tuple[object, ...] | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="jboost-read", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._news:
            self._stopped = True
            self._news.notify_all()
        self._thread.join(_PATIENCE)  # it may wait for a set that never comes; then it ends with the process

    @property
    def ready(self) -> bool:
        """Whether a piece is ready. The caller holds `news`."""
        return bool(self._pieces)

    @property
    def ended(self) -> bool:
        """Whether no piece is ready and none will come. The caller holds `news`."""
        return self._ended and not self._pieces

    def peek(self) -> SetWork | None:
        """The set of the next piece; None if none is ready."""
        with self._news:
            return self._pieces[0].of.work if self._pieces else None

    def take(self) -> Piece | None:
        """The next piece; None if none is ready. Does not wait."""
        with self._news:
            if not self._pieces:
                return None
            piece = self._pieces.popleft()
            self._waiting -= max(len(piece.positions), 1)
            self._news.notify_all()
            return piece

    def _work(self) -> None:
        try:
            self._read_sets()
        except BaseException as e:  # raised again in the loop's thread
            self.error = e
        finally:
            if (close := getattr(self._sets, "close", None)) is not None:  # a generator, which this thread has run
                with suppress(Exception):
                    close()
            with self._news:
                self._ended = True
                self._news.notify_all()

    def _read_sets(self) -> None:
        first = 0
        while self._room(self._may_open):
            work = next(self._sets, None)
            if work is None:
                return
            self._read_set(OpenSet(work, first))
            first += len(work.store.records)
            del work  # the next one may be long in coming

    def _read_set(self, now: OpenSet) -> None:
        work, todo, read = now.work, now.todo, 0
        try:
            self._check(work)
            for start in range(0, len(todo), self._size):
                if not self._room():
                    return
                positions = todo[start : start + self._size]
                images = work.read(positions)
                if images.shape != (len(positions), *work.shape) or images.dtype != np.uint8:
                    raise BadInputError(
                        f"{len(positions)} images uint8 {list(work.shape)} were to come, and {images.dtype} {list(images.shape)} "
                        "came; check the file"
                    )
                self._put(Piece(now, positions, images))
                read += len(positions)
            if not len(todo):
                self._put(Piece(now, todo, np.empty((0, *work.shape), np.uint8)))
        except Exception as e:  # of this set alone; the others go on
            self._put(Piece(now, todo[:0], np.empty((0, *work.shape), np.uint8), e, len(todo) - read))

    def _check(self, work: SetWork) -> None:
        """That the set fits in the flight of those before, and that its parts fit together."""
        here = (*work.shape, *work.store.snapshots)
        self._shape = self._shape or here
        if here != self._shape:
            raise BadInputError(
                f"its images and snapshots are {list(here)}, the first set's {list(self._shape)}; boost it on its own"
            )
        count = len(work.store.records)
        for name, array in (("numbers", work.numbers), ("labels", work.labels)):
            if array is not None and len(array) != count:
                raise BadInputError(f"{len(array)} {name} for {count} images; give one for each image")

    def _room(self, more: Callable[[], bool] = lambda: True) -> bool:
        """Wait until fewer than two batches wait and `more` is true; False if the feed was stopped meanwhile."""
        with self._news:
            self._news.wait_for(lambda: self._stopped or (self._waiting < _AHEAD * self._size and more()))
            return not self._stopped

    def _put(self, piece: Piece) -> None:
        with self._news:
            self._pieces.append(piece)
            self._waiting += max(len(piece.positions), 1)
            self._news.notify_all()
