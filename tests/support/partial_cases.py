"""A small run's results, put into a store as a run puts them, and what a correct resume makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jboost.booster import Booster
from jboost.engine.method.settings import Settings
from jboost.engine.results.store import DiskStore
from jboost.engine.results.summary import RECORD
from jboost.engine.samples import open_samples

SHAPE = (7, 2, 3, 3)
STEPS = (2,)
IDENTITY = {"engine": "eager", "seed": 0, "snapshots": list(STEPS)}


def images(step: int | None = None, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """The results, or a snapshot's images: uint8, none zero."""
    return np.random.default_rng(step or 0).integers(1, 256, shape, np.uint8)


def records(step: int | None = None, count: int = SHAPE[0]) -> np.ndarray:
    found = np.zeros(count, RECORD)
    found["done"] = True
    found["steps"] = np.arange(count) + 10 * (step or 0)
    found["realness_after"] = np.linspace(0, 1, count)
    return found


def open_store(out: Path, *, resume: bool = True, shape: tuple[int, ...] = SHAPE) -> DiskStore:
    return DiskStore(out, shape, IDENTITY, resume=resume, snapshots=STEPS)


def put(store: DiskStore, which: np.ndarray, shape: tuple[int, ...] = SHAPE) -> None:
    """Hand in the results of some images as a run does: the snapshots first."""
    for step, into in [*store.snapshots.items(), (None, store)]:
        into.put(which, images(step, shape)[which], records(step, shape[0])[which])


def begun(out: Path, done: int = 4) -> None:
    """A run that was interrupted after `done` images."""
    store = open_store(out, resume=False)
    put(store, np.arange(done))
    store.commit()
    store.close()


def finish(store: DiskStore, shape: tuple[int, ...] = SHAPE) -> None:
    """Do what the store says is to be done, and check that every image and record is then as it should be."""
    todo = np.flatnonzero(~store.records["done"])
    if len(todo):
        put(store, todo, shape)
    store.commit()
    for step, kept in [(None, store), *store.snapshots.items()]:
        np.testing.assert_array_equal(np.concatenate(list(kept.batches())), images(step, shape))
        assert (kept.records == records(step, shape[0])).all()
    store.close()


class _BrokenOffError(Exception):
    pass


def break_off(booster: Booster, samples: Path, out: Path, settings: Settings) -> None:
    """Begin to boost `samples` into `out` and stop at the first sign of progress, as a killed run leaves it."""

    def stop(progress: object) -> None:
        raise _BrokenOffError

    with pytest.raises(_BrokenOffError):
        booster.boost_file(open_samples(samples), out, settings, on_progress=stop)
