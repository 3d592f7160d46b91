"""Scoring the results: one forward pass over the rounded images, as the user gets them, in full batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from jboost.engine.method.objectives import realness
from jboost.engine.results.summary import RECORD

from .flight import Finished
from .runner import Evaluation, Runner

Numpy = np.ndarray[Any, Any]
_RESULT = 0  # in place of a snapshot's number of steps, which is at least 1


class Results(Protocol):
    """What takes results: a thread that writes them, or stores."""

    def put(self, indices: Numpy, images: Numpy, records: Numpy, step: int | None = None) -> None:
        """Take results in any order, or a snapshot after `step` steps; see `jboost.engine.loop.pipeline.WriteBehind.put`."""
        ...


class Scorer:
    """Scores images that have finished, makes their records and hands both on.

    The scorer hands on an image's result after its snapshots, so a stored result implies that its snapshots are stored.

    Args:
        runner: the engine.
        batch_size: images per forward pass.
        behind: receives the results and their records.

    Attributes:
        count: images that have finished so far, handed on or not.
    """

    def __init__(self, runner: Runner, batch_size: int, behind: Results):
        self._runner, self._size, self._behind = runner, batch_size, behind
        # Images, classes, positions, records, and a snapshot's number of steps or _RESULT.
        self._waiting: list[tuple[Numpy, Numpy, Numpy, Numpy, Numpy]] = []
        self.count = 0

    def add(self, finished: Finished, step: int | None = None) -> None:
        """Take images that have finished, or a snapshot after `step` steps. Images that never moved need no scoring."""
        records = self._records(finished)
        # A failed image is its input again, but its snapshots may have moved: its result is handed on after them.
        unknown = (finished.steps > 0) | finished.failed | np.isnan(finished.before_logit)
        if step is None:
            self.count += len(records)
        if not unknown.all():
            known = ~unknown
            self._behind.put(finished.index[known], finished.images[known], records[known], step)
        if unknown.any():
            steps = np.full(unknown.sum(), _RESULT if step is None else step)
            f = finished.select(unknown)
            self._waiting.append((f.images, f.y, f.index, records[unknown], steps))
        while sum(len(w[0]) for w in self._waiting) >= self._size:
            self._score()

    def take(self, snapshots: Iterable[tuple[int, Finished]], finished: Finished | None) -> None:
        """Take what a turn of the loop gave: (number of steps, images) of snapshots, and the images that have finished, if any."""
        for step, taken in snapshots:
            self.add(taken, step)
        if finished is not None:
            self.add(finished)

    def flush(self) -> None:
        """Score the remaining images."""
        if self._waiting:
            self._score()

    def _score(self) -> None:
        columns = [np.concatenate(column) for column in zip(*self._waiting, strict=True)]
        rest = tuple(a[self._size :] for a in columns)
        self._waiting = [rest] if len(rest[0]) else []  # type: ignore[list-item]
        images, y, index, records, steps = (a[: self._size] for a in columns)
        after = score(self._runner, images, y, self._size)
        records["realness_after"] = realness(after.class_logit)
        records["correct_after"] = after.predicted == y
        unseen = np.isnan(records["realness_before"])  # a run of no steps: the values "before" equal those "after"
        for name in ("realness", "correct"):
            records[f"{name}_before"][unseen] = records[f"{name}_after"][unseen]
        for step in np.unique(steps)[::-1]:  # results last
            of = steps == step
            self._behind.put(index[of], images[of], records[of], None if step == _RESULT else int(step))

    def _records(self, finished: Finished) -> Numpy:
        f = finished
        records = np.zeros(len(f.index), RECORD)
        records["done"] = True
        records["steps"] = f.steps
        records["stopped"] = f.stopped
        records["retried"] = f.retried & (self._runner.dtype != "fp32")
        records["failed"] = f.failed
        records["realness_before"] = records["realness_after"] = realness(f.before_logit)
        records["correct_before"] = records["correct_after"] = f.before_predicted == f.y
        records["l2"] = f.moved
        return records


def score(runner: Runner, images: Numpy, y: Numpy, batch_size: int) -> Evaluation:
    """One forward pass over images uint8 [n, H, W, C] with classes `y` [n], n <= `batch_size`; numpy arrays [n]."""
    padded = np.minimum(np.arange(batch_size), len(images) - 1)  # repeats the last image
    evaluation = runner.evaluate_images(images[padded], y[padded])
    return Evaluation(*(a[: len(images)] for a in evaluation))
