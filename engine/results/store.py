"""The stores of a run's results: in memory, or on disk, where a killed run keeps everything it has finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.samples.files import cannot_write
from jboost.engine.system.replacing import discard, replacing_folder

from .identity import HEADER, check_same, digest, header_text, partial_folder, remove_it, unfinished_run
from .partial import IMAGES, RECORDS, StoredSet, check_files, foreign_files
from .summary import RECORD

_FILES = (IMAGES, RECORDS)


class Store(Protocol):
    """Results by image. `records` [N] of `RECORD` says which images are done.

    `snapshots`, ascending by number of steps, hold the images after that many steps.
    """

    records: np.ndarray[Any, Any]

    @property
    def snapshots(self) -> Mapping[int, Store]:
        """The store of the images after each number of steps."""
        ...

    def put(self, indices: np.ndarray[Any, Any], images: np.ndarray[Any, Any], records: np.ndarray[Any, Any]) -> None:
        """Keep the results of the images at ascending `indices`: `images` uint8 [n, H, W, C] and their records [n]."""
        ...

    def commit(self) -> None:
        """Make safe what was put, in this store and its snapshots: a crash loses at most what was not committed."""
        ...


class MemoryStore:
    """Results in memory, for arrays; `images` is uint8 [N, H, W, C]."""

    def __init__(self, shape: tuple[int, int, int, int], snapshots: Sequence[int] = ()):
        self.images = np.empty(shape, np.uint8)
        self.records = np.zeros(shape[0], RECORD)
        self.snapshots = {step: MemoryStore(shape) for step in snapshots}

    def put(self, indices: np.ndarray[Any, Any], images: np.ndarray[Any, Any], records: np.ndarray[Any, Any]) -> None:
        """Keep the results of the images at `indices`."""
        self.images[indices] = images
        self.records[indices] = records

    def commit(self) -> None:
        """Do nothing."""


#: Each is a whole set, in two open files while the run lasts.
MOST_SNAPSHOTS = 100


def check_snapshots(wanted: Sequence[int], steps: int) -> tuple[int, ...]:
    """Check the requested numbers of steps; returns them ascending, each once.

    Raises:
        BadInputError: a number is below 1 or above the run's `steps`, or there are more than `MOST_SNAPSHOTS`.
    """
    if len(set(wanted)) > MOST_SNAPSHOTS:
        raise BadInputError(
            f"{len(set(wanted))} snapshots: a run takes at most {MOST_SNAPSHOTS}; name fewer numbers of steps"
        )
    for step in wanted:
        if not 1 <= step <= steps:
            raise BadInputError(f"no snapshot after {step} steps: the run has {steps}; choose from 1 to {steps}")
    return tuple(sorted(set(wanted)))


class DiskStore:
    """Results in the folder ``OUT.partial`` beside the output; `remove` deletes it once the output is complete.

    Args:
        out: the run's output. The caller holds its lock (`jboost.engine.system.locks.only_writer`).
        shape: (N, H, W, C).
        identity: from `run_identity`; a run is resumed only with the same identity.
        resume: continue an unfinished run; if there is none, start a new run.
        snapshots: numbers of steps, ascending.

    Attributes:
        redone: number of images whose earlier results are damaged, so that they are done again.

    Raises:
        BadInputError: an unfinished run exists and `resume` is false; it is another run, or not one that this version
            can check; or the folder cannot be written, for lack of room or permission.
    """

    def __init__(
        self,
        out: Path,
        shape: tuple[int, int, int, int],
        identity: dict[str, Any],
        *,
        resume: bool,
        snapshots: Sequence[int] = (),
    ):
        self.out, self.folder = out, partial_folder(out)
        folders = {step: self.folder / f"step{step}" for step in snapshots}
        names = {HEADER, *(f"{p}{name}" for p in ("", *(f"{f.name}/" for f in folders.values())) for name in _FILES)}
        self._names = names
        old = check_unfinished(out, resume=resume)
        try:
            if old is None:
                # Atomic, so that a folder that a killed process left half-made is not mistaken for a run.
                with replacing_folder(self.folder) as aside:
                    for folder in (aside, *(aside / f.name for f in folders.values())):
                        folder.mkdir(exist_ok=True)
                        StoredSet.create(folder, shape)
                    (aside / HEADER).write_text(header_text(identity), encoding="utf-8")
            else:
                check_same(out, old, identity)
                check_files(self.folder, names)
            run = digest(identity)
            self._results = StoredSet(self.folder, shape, run)
            self.snapshots = {step: StoredSet(folder, shape, run) for step, folder in folders.items()}
        except OSError as e:
            if old is None:
                raise cannot_write(out, e) from e
            raise BadInputError(
                f"{self.folder} cannot be opened ({e.strerror or e}); make it readable and writable, or remove it: "
                f"{remove_it(self.folder)}"
            ) from e
        self.records = self._results.records
        self.redone = self._settle()

    def _settle(self) -> int:
        """Take an image for done only if its snapshots are there too; returns the number of damaged images."""
        sets = (self._results, *self.snapshots.values())
        done = np.logical_and.reduce([stored.records["done"] for stored in sets])
        damaged = np.logical_or.reduce([stored.damaged for stored in sets]) | (self.records["done"] & ~done)
        for stored in sets:
            stored.keep(done)
        return int(damaged.sum())

    def put(self, indices: np.ndarray[Any, Any], images: np.ndarray[Any, Any], records: np.ndarray[Any, Any]) -> None:
        """Keep the results of the images at ascending `indices`."""
        self._results.put(indices, images, records)

    def commit(self) -> None:
        """Make safe what was put.

        Raises:
            FailureError: the system refused; what was committed before stays.
        """
        # Snapshots first: a result says that its snapshots are there.
        for stored in (*self.snapshots.values(), self._results):
            stored.commit()

    def batches(self) -> Iterator[np.ndarray[Any, Any]]:
        """The images in order, a few at a time."""
        return self._results.batches()

    def close(self) -> None:
        """Close the files; the finished results stay for a later run."""
        for stored in (self._results, *self.snapshots.values()):
            stored.close()

    def remove(self) -> None:
        """Delete the folder, once the output is complete; what others put there stays."""
        self.close()
        with suppress(OSError):  # the output is there; a folder that cannot be removed is not worth its failure
            if not foreign_files(self.folder, self._names):
                discard(self.folder)
                return
            for name in self._names:
                (self.folder / name).unlink()


def check_unfinished(out: Path, *, resume: bool) -> dict[str, Any] | None:
    """The identity of the unfinished run into `out` that `resume` goes on with; None if there is none.

    Raises:
        BadInputError: there is one and `resume` is false, or it cannot be resumed by this version.
    """
    old = unfinished_run(out)
    if old is not None and not resume:
        folder = partial_folder(out)
        raise BadInputError(
            f"{folder} holds an unfinished run; continue it with --resume, or remove it: {remove_it(folder)}"
        )
    return old
