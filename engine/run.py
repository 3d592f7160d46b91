"""Running the loop over a whole set in batches of one fixed size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .loop import Trajectory, boost_batch
from .objectives import realness
from .presets import Settings
from .runner import Runner
from .stats import RECORD
from .store import Store


class Progress(NamedTuple):
    """How far a run is: `total` images in the set, `before` of them finished by an earlier run, `finished` by this one
    (fractional while a batch is under way), and the mean `realness` of the current batch."""

    total: int
    before: int
    finished: float
    realness: float


ProgressCallback = Callable[[Progress], None]

#: Reads images uint8 [n, H, W, C] at ascending indices.
Reader = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def run_set(
    runner: Runner,
    read: Reader,
    labels: np.ndarray[Any, Any] | None,
    store: Store,
    settings: Settings,
    *,
    batch_size: int,
    on_progress: ProgressCallback | None = None,
) -> int:
    """Boost every image that `store` does not have yet.

    Args:
        runner: the engine, bound to a bundle and an objective.
        read: gives the images.
        labels: int64 [N], or None to take c = argmax f(x0), as in algorithm 1.
        store: takes the results; its records say what is done.
        settings: what is done to each image.
        batch_size: images in flight; the last batch is padded, so that shapes stay fixed.
        on_progress: called after each step and each batch.

    Returns:
        The number of images this call finished.
    """
    todo = np.flatnonzero(~store.records["done"])
    total, before, finished = len(store.records), len(store.records) - len(todo), 0
    for start in range(0, len(todo), batch_size):
        indices = todo[start : start + batch_size]
        images = read(indices)

        def report(state: dict[str, Any], done: int = finished, count: int = len(indices)) -> None:
            if on_progress is not None:
                share = state["step"] / state["steps"]
                on_progress(Progress(total, before, done + count * share, float(state["realness"].mean())))

        boosted, records = _boost_images(runner, images, labels, settings, indices, batch_size, report)
        store.put(indices, boosted, records)
        finished += len(indices)
        if on_progress is not None:
            on_progress(Progress(total, before, finished, float(records["realness_after"].mean())))
    return finished


def _boost_images(
    runner: Runner,
    images: np.ndarray[Any, Any],
    labels: np.ndarray[Any, Any] | None,
    settings: Settings,
    indices: np.ndarray[Any, Any],
    batch_size: int,
    on_step: Callable[[dict[str, Any]], None],
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    count = len(images)
    pad = np.minimum(np.arange(batch_size), count - 1)  # repeats the last image
    x0 = to_float(images)[pad]
    x0_device, index = runner.put(x0), runner.put(indices[pad].astype(np.int64))
    if labels is None:
        y = runner.evaluate(x0_device, runner.put(np.zeros(batch_size, np.int64))).predicted
    else:
        y = runner.put(labels[indices][pad])

    way = boost_batch(runner, x0_device, y, settings, index=index, on_step=on_step)

    boosted = to_uint8(way.x)
    after = way.before
    if way.steps.any():
        # Of the rounded images, which are what the user gets.
        evaluation = runner.evaluate(runner.put(to_float(boosted)), y)
        after = type(evaluation)(runner.get(evaluation.class_logit), runner.get(evaluation.predicted))
    boosted = boosted[:count]
    return boosted, _records(way, after, runner.get(y), images, boosted)


def _records(way: Trajectory, after: Any, y: np.ndarray[Any, Any], images: Any, boosted: Any) -> np.ndarray[Any, Any]:
    n = len(images)
    records = np.zeros(n, RECORD)
    records["done"] = True
    records["steps"] = way.steps[:n]
    records["stopped"] = way.stopped[:n]
    records["retried"] = way.retried[:n]
    records["failed"] = way.failed[:n]
    records["realness_before"] = realness(way.before.class_logit)[:n]
    records["realness_after"] = realness(after.class_logit)[:n]
    records["correct_before"] = (way.before.predicted == y)[:n]
    records["correct_after"] = (after.predicted == y)[:n]
    moved = (boosted.astype(np.float32) - images.astype(np.float32)) / 255.0
    records["l2"] = np.sqrt((moved**2).reshape(n, -1).sum(axis=1))
    return records


def to_float(images: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """uint8 [N, H, W, C] in [0, 255] -> float32 [N, C, H, W] in [0, 1]."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32) / np.float32(255)


def to_uint8(x: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """float32 [N, C, H, W] in [0, 1] -> uint8 [N, H, W, C], rounded to nearest."""
    return np.ascontiguousarray(np.rint(x * np.float32(255)).astype(np.uint8).transpose(0, 2, 3, 1))
