"""An unfinished run after a power cut on a disk that loses and reorders writes, and after kills at any moment."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from bowl import SHAPE as BOWL
from bowl import Bowl, NumpyRunner
from children import do, fork, wait
from partial_cases import SHAPE, finish, open_store, put

from jboost.engine.loop.run import run_set
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import PGD
from jboost.engine.results import partial
from jboost.engine.results.identity import partial_folder
from jboost.engine.results.store import DiskStore


class LossyDisk:
    """A disk that holds what was synced and, of the rest, what chance leaves: in any order, each write whole, in part or not.

    The file system is journalled: sizes and names are those that were made. The data are not.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self._folder = folder
        self._safe = {path: bytearray(path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
        self._waiting: list[tuple[Path, int, bytes]] = []
        write, sync = partial.write_at, partial.sync

        def note_write(file: BinaryIO, offset: int, data: bytes) -> None:
            self._waiting.append((Path(file.name), offset, data))
            write(file, offset, data)

        def note_sync(file: BinaryIO) -> None:
            sync(file)
            for path, offset, data in self._waiting:
                if path == Path(file.name):
                    self._safe[path][offset : offset + len(data)] = data
            self._waiting = [w for w in self._waiting if w[0] != Path(file.name)]

        patch.setattr(partial, "write_at", note_write)
        patch.setattr(partial, "sync", note_sync)

    def crash(self, chance: random.Random) -> None:
        """Put what is left in the folder's place."""
        left = {path: bytearray(content) for path, content in self._safe.items()}
        writes = list(self._waiting)
        chance.shuffle(writes)
        for path, offset, data in writes:
            start, stop = sorted((chance.randint(0, len(data)), chance.randint(0, len(data))))
            if chance.random() < 0.3:
                start, stop = 0, len(data)
            if chance.random() < 0.6:
                left[path][offset + start : offset + stop] = data[start:stop]
        for path, content in left.items():
            path.write_bytes(content)


@pytest.mark.parametrize("seed", range(60))
def test_a_lossy_disk_costs_at_most_what_was_not_committed(seed, tmp_path, monkeypatch) -> None:
    chance, out = random.Random(seed), tmp_path / "out.npz"
    store = open_store(out, resume=False)
    for _ in range(3):  # crashes one after another
        with monkeypatch.context() as patch:
            disk = LossyDisk(partial_folder(out), patch)
            todo = np.flatnonzero(~store.records["done"])
            chance.shuffle(todo)
            committed = np.flatnonzero(store.records["done"]).tolist()
            stop = chance.randint(0, len(todo))
            pending: list[int] = []
            while len(todo) > stop:
                part, todo = np.sort(todo[: chance.randint(1, 2)]), todo[chance.randint(1, 2) :]
                put(store, part)
                pending += part.tolist()
                if chance.random() < 0.4:
                    store.commit()
                    committed, pending = committed + pending, []
            if chance.random() < 0.5:  # a crash in the middle of a commit
                some = iter(range(chance.randint(0, 3)))

                def die(file: BinaryIO, syncs: Any = some, sync: Any = partial.sync) -> None:
                    if next(syncs, None) is None:
                        raise KeyboardInterrupt
                    sync(file)

                patch.setattr(partial, "sync", die)
                try:
                    store.commit()
                    committed += pending
                except KeyboardInterrupt:
                    pass
            disk.crash(chance)
        store.close()
        store = open_store(out)
        assert set(committed) <= set(np.flatnonzero(store.records["done"]).tolist())
    finish(store)


def test_the_lossy_disk_loses_and_the_checksums_are_needed(tmp_path, monkeypatch) -> None:
    """The simulation is worth its name: without checksums, damage would pass for results."""
    monkeypatch.setattr(partial, "crcs", lambda images: np.zeros(len(images), np.uint32))
    wrong = 0
    for seed in range(60):
        out = tmp_path / f"{seed}.npz"
        store = open_store(out, resume=False)
        with monkeypatch.context() as patch:
            disk = LossyDisk(partial_folder(out), patch)
            patch.setattr(partial, "sync", lambda file: None)  # and without the order of commits
            put(store, np.arange(SHAPE[0]))
            store.commit()
            disk.crash(random.Random(seed))
        store.close()
        store = open_store(out)
        try:
            finish(store)
        except AssertionError:
            wrong += 1
    assert wrong > 5


# --- kills -----------------------------------------------------------------------------------------------------------------------

COUNT = 40
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, BOWL[1], BOWL[2], BOWL[0]), np.uint8)
HOW = Settings(PGD(6, 0.05), "bce", None, False, 0)


class _Slow(NumpyRunner):
    """Takes long enough that a kill finds it at work."""

    def gradient(self, x, y, *, in_float32=False):
        time.sleep(0.002)
        return super().gradient(x, y, in_float32=in_float32)


def _boost(out: Path, runner: NumpyRunner, *, resume: bool = True) -> DiskStore:
    store = DiskStore(out, IMAGES.shape, {"engine": "numpy"}, resume=resume, snapshots=(2,))
    labels = np.arange(COUNT) % 8
    run_set(runner, lambda i: IMAGES[i], labels, store, HOW, shape=IMAGES.shape[1:], batch_size=4)
    return store


def test_a_run_killed_again_and_again_gives_the_same_images(tmp_path) -> None:
    do(kill_again_and_again, tmp_path)


def kill_again_and_again(folder: Path) -> None:
    whole = _boost(folder / "whole.npz", NumpyRunner(Bowl()), resume=False)
    want = {step: np.concatenate(list(kept.batches())) for step, kept in [(0, whole), *whole.snapshots.items()]}
    chance, out, kills = random.Random(0), folder / "out.npz", 0
    while kills < 20:
        before, reach = 0, 0.08
        while True:

            def work() -> None:
                _boost(out, _Slow(Bowl())).close()

            child = fork(work)
            time.sleep(chance.uniform(0.0, reach))
            os.kill(child, signal.SIGKILL)
            if wait(child) == 0:
                break
            kills += 1
            done = before
            if partial_folder(out).exists():
                store = DiskStore(out, IMAGES.shape, {"engine": "numpy"}, resume=True, snapshots=(2,))
                done = int(store.records["done"].sum())
                assert store.redone == 0 or store.redone <= 4  # a record that was being written
                assert done >= before
                store.close()
                if done == COUNT:
                    break
            reach *= 1.2 if done == before else 1  # a busy machine makes no progress in so short a time
            assert reach < 60, "no progress"
            before = done
        store = _boost(out, NumpyRunner(Bowl()))
        assert (store.records == whole.records).all()
        for step, kept in [(0, store), *store.snapshots.items()]:
            np.testing.assert_array_equal(np.concatenate(list(kept.batches())), want[step])
        store.remove()
    whole.remove()
