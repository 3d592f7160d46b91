"""The stores of a run's results: in memory, or on disk, where a killed run keeps everything it has finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Protocol

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.method.settings import Settings
from jboost.engine.samples.base import runs
from jboost.engine.samples.files import cannot_write
from jboost.engine.system.replacing import replacing_folder

from .summary import RECORD

_IDENTITY, _IMAGES, _RECORDS = "run.json", "images.u8", "records.bin"


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


def unfinished_engine(out: Path) -> str | None:
    """The engine of an unfinished run into `out`; None if there is no such run."""
    try:
        return str(json.loads((partial_folder(out) / _IDENTITY).read_text())["engine"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def partial_folder(out: Path) -> Path:
    """The folder in which an unfinished run into `out` keeps its results."""
    return out.with_name(out.name + ".partial")


def run_identity(
    settings: Settings,
    *,
    fingerprint: str,
    images: int,
    bundle: str,
    engine: str,
    dtype: str,
    snapshots: Sequence[int] = (),
) -> dict[str, Any]:
    """Everything that a run's output depends on, as JSON values. The batch size is not part of it.

    Args:
        settings: the run's settings.
        fingerprint: the input's fingerprint.
        images: N.
        bundle: SHA-256 of the checkpoint that the bundle was exported from.
        engine, dtype: the engine and the network's dtype.
        snapshots: numbers of steps, ascending.
    """
    identity = {
        "input": fingerprint,
        "images": images,
        "bundle": bundle,
        "engine": engine,
        "dtype": dtype,
        "update": repr(settings.update),
        "objective": settings.objective,
        "l0": settings.l0,
        "early_stop": settings.early_stop,
        "seed": settings.seed,
    }
    return identity | ({"snapshots": list(snapshots)} if snapshots else {})


def check_snapshots(wanted: Sequence[int], steps: int) -> tuple[int, ...]:
    """Check the requested numbers of steps; returns them ascending, each once.

    Raises:
        BadInputError: a number is below 1 or above the run's `steps`.
    """
    for step in wanted:
        if not 1 <= step <= steps:
            raise BadInputError(f"no snapshot after {step} steps: the run has {steps}; choose from 1 to {steps}")
    return tuple(sorted(set(wanted)))


class DiskStore:
    """Results in the folder ``OUT.partial`` beside the output; `remove` deletes it once the output is complete.

    Args:
        out: the run's output.
        shape: (N, H, W, C).
        identity: from `run_identity`; a run is resumed only with the same identity.
        resume: continue an unfinished run; if there is none, start a new run.
        snapshots: numbers of steps, ascending.

    Raises:
        BadInputError: an unfinished run exists and `resume` is false; it has other settings; or the folder cannot be
            written, for lack of room or permission.
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
        self.out = out
        self.folder = partial_folder(out)
        self._identity = self.folder / _IDENTITY
        if self.folder.exists():
            if not resume:
                raise BadInputError(
                    f"{self.folder} holds an unfinished run; continue it with --resume, or remove it: "
                    f"rm -r {self.folder}"
                )
            self._check_identity(identity)
        else:
            self._create(shape, identity, snapshots)
        self._results = StoredSet(self.folder, shape)
        self.snapshots = {step: StoredSet(_snapshot_folder(self.folder, step), shape) for step in snapshots}
        self.records = self._results.records

    def _create(self, shape: tuple[int, int, int, int], identity: dict[str, Any], snapshots: Sequence[int]) -> None:
        try:
            # Atomic, so that a folder that a killed process left half-made is not mistaken for a run.
            with replacing_folder(self.folder) as aside:
                for folder in (aside, *(_snapshot_folder(aside, step) for step in snapshots)):
                    folder.mkdir(exist_ok=True)
                    StoredSet.create(folder, shape)
                (aside / self._identity.name).write_text(json.dumps(identity, indent=2))
        except OSError as e:
            raise cannot_write(self.out, e) from e

    def _check_identity(self, identity: dict[str, Any]) -> None:
        try:
            old = json.loads(self._identity.read_text())
        except (OSError, ValueError) as e:
            raise BadInputError(f"{self.folder} is not an unfinished run ({e}); remove it: rm -r {self.folder}") from e
        differ = [key for key in identity if old.get(key) != identity[key]]
        if differ:
            was = ", ".join(f"{key} was {old.get(key)!r}, is {identity[key]!r}" for key in differ[:3])
            raise BadInputError(
                f"{self.folder} holds a run with other settings ({was}); use the same, or remove it: "
                f"rm -r {self.folder}"
            )

    def put(self, indices: np.ndarray[Any, Any], images: np.ndarray[Any, Any], records: np.ndarray[Any, Any]) -> None:
        """Keep the results of the images at ascending `indices`."""
        self._results.put(indices, images, records)

    def batches(self) -> Iterator[np.ndarray[Any, Any]]:
        """The images in order, a few at a time."""
        return self._results.batches()

    def close(self) -> None:
        """Close the files; the finished results stay for a later run."""
        for stored in (self._results, *self.snapshots.values()):
            stored.close()

    def remove(self) -> None:
        """Delete the folder, once the output is complete."""
        self.close()
        shutil.rmtree(self.folder)


class StoredSet:
    """The images and the records of a set, as two files in a folder that `create` has filled.

    They are plain files, not memory maps: memory maps would count the whole set as this process's memory.
    """

    snapshots: Mapping[int, Store] = MappingProxyType({})

    def __init__(self, folder: Path, shape: tuple[int, int, int, int]):
        self._shape = shape
        self._images = (folder / _IMAGES).open("r+b")
        self._records = (folder / _RECORDS).open("r+b")
        self.records = np.fromfile(folder / _RECORDS, RECORD)

    @staticmethod
    def create(folder: Path, shape: tuple[int, int, int, int]) -> None:
        """Make the files."""
        for name, size in ((_IMAGES, int(np.prod(shape))), (_RECORDS, shape[0] * RECORD.itemsize)):
            with (folder / name).open("wb") as f:
                # Reserve the space now if the system can, so that a full disk is noticed before the work is done.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(f.fileno(), 0, size)
                f.truncate(size)

    def put(self, indices: np.ndarray[Any, Any], images: np.ndarray[Any, Any], records: np.ndarray[Any, Any]) -> None:
        """Keep the results of the images at ascending `indices`: pixels first, since a record says its pixels exist."""
        self.records[indices] = records
        _write_rows(self._images, indices, images)
        _write_rows(self._records, indices, records)

    def batches(self, size: int = 256) -> Iterator[np.ndarray[Any, Any]]:
        """The images in order, a few at a time."""
        self._images.seek(0)
        for start in range(0, self._shape[0], size):
            count = min(size, self._shape[0] - start)
            data = self._images.read(count * int(np.prod(self._shape[1:])))
            yield np.frombuffer(data, np.uint8).reshape(count, *self._shape[1:])

    def close(self) -> None:
        """Close the files."""
        self._images.close()
        self._records.close()


def _snapshot_folder(partial: Path, step: int) -> Path:
    return partial / f"step{step}"


def _write_rows(file: BinaryIO, indices: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> None:
    size = rows[0].nbytes
    done = 0
    for start, stop in runs(indices):
        file.seek(start * size)
        file.write(np.ascontiguousarray(rows[done : done + stop - start]).tobytes())
        done += stop - start
    file.flush()
