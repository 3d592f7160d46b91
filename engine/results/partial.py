"""The files of an unfinished run: pixels and records, each with a checksum, so that whatever a crash leaves is noticed.

Pixels are written at once and forced to the disk before the records that speak of them are written (`commit`). Each
record holds a CRC-32 of its image's pixels and one of itself, which covers the image's number and the run: a record
that was torn, moved, left by another run or whose pixels are not those it speaks of does not count, and its image is
done again.
"""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np

from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.samples.base import runs

from .identity import remove_it
from .summary import RECORD

IMAGES, RECORDS = "images.u8", "records.bin"
#: A record on disk: `pixels` is the CRC-32 of the image's bytes, `check` that of the bytes before it.
STORED = np.dtype([*RECORD.descr, ("pixels", "<u4"), ("check", "<u4")])
_COVERED = STORED.itemsize - 4
_CHUNK = 256  # images read at a time

Numpy = np.ndarray[Any, Any]


class StoredSet:
    """The images and the records of a set, as two files in a folder that `create` has filled.

    They are plain files, not memory maps: memory maps would count the whole set as this process's memory.

    Args:
        folder: the folder.
        shape: (N, H, W, C).
        run: the run's digest, hex.

    Attributes:
        records: [N] of `RECORD`; zeros for images that are not done.
        damaged: bool [N], the images that were begun or done, and whose record or pixels do not check.

    Raises:
        BadInputError: a file is none.
        OSError: a file cannot be opened or read.
    """

    snapshots: Mapping[int, Any] = MappingProxyType({})

    def __init__(self, folder: Path, shape: tuple[int, int, int, int], run: str):
        self._shape, self._run, self.folder = shape, run, folder
        self._size = int(np.prod(shape[1:]))
        self._pending: list[tuple[Numpy, Numpy]] = []
        self._images, _ = _open(folder / IMAGES, shape[0] * self._size)
        self._file, whole = _open(folder / RECORDS, shape[0] * STORED.itemsize)
        found = np.fromfile(folder / RECORDS, STORED)
        written = found.view(np.uint8).reshape(shape[0], -1).any(1)
        good = written & found["done"] & (found["check"] == self._checks(np.arange(shape[0]), found))
        for start, images in self._read(good):
            rows = slice(start, start + len(images))
            good[rows] &= crcs(images) == found["pixels"][rows]
        self._found, self.damaged = found, (written & ~good) | (np.arange(shape[0]) >= whole // STORED.itemsize)
        self.records = np.zeros(shape[0], RECORD)
        self._pixels = np.array(found["pixels"])
        self.keep(good)

    @staticmethod
    def create(folder: Path, shape: tuple[int, int, int, int]) -> None:
        """Make the files."""
        for name, size in ((IMAGES, int(np.prod(shape))), (RECORDS, shape[0] * STORED.itemsize)):
            with (folder / name).open("wb") as f:
                # Reserve the space now if the system can, so that a full disk is noticed before the work is done.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(f.fileno(), 0, size)
                f.truncate(size)

    def keep(self, which: Numpy) -> None:
        """Count the images of `which` (bool [N]) as done, of those that check; the others are to be done."""
        for name in RECORD.names or ():
            self.records[name] = np.where(which, self._found[name], 0)

    def put(self, indices: Numpy, images: Numpy, records: Numpy) -> None:
        """Keep the results of the images at ascending `indices`; they are safe after the next `commit`.

        Raises:
            FailureError: the system refused, for lack of room for example.
        """
        rows = np.zeros(len(indices), STORED)
        for name in RECORD.names or ():
            rows[name] = records[name]
        rows["pixels"] = crcs(images)
        rows["check"] = self._checks(indices, rows)
        with self._writing():
            _write_rows(self._images, indices, images)
        self.records[indices] = records
        self._pixels[indices] = rows["pixels"]
        self._pending.append((indices, rows))

    def commit(self) -> None:
        """Force the pixels to the disk, then write their records and force those.

        Raises:
            FailureError: the system refused; what was committed before stays.
        """
        if self._pending:
            with self._writing():
                sync(self._images)
                while self._pending:
                    _write_rows(self._file, *self._pending[0])
                    del self._pending[0]
                sync(self._file)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as e:
            raise FailureError(
                f"cannot write {self.folder} ({e.strerror or e}); mend that, by freeing some space for example, and go "
                "on with --resume"
            ) from e

    def batches(self) -> Iterator[Numpy]:
        """The images in order, a few at a time; every image is done.

        Raises:
            FailureError: the file has changed since it was written.
        """
        for start, images in self._read(np.ones(self._shape[0], bool)):
            wrong = np.flatnonzero(crcs(images) != self._pixels[start : start + len(images)])
            if len(wrong):
                raise FailureError(
                    f"image {start + wrong[0]} in {self.folder / IMAGES} has changed since it was written; go on with "
                    "--resume, which does it again"
                )
            yield images

    def _read(self, which: Numpy) -> Iterator[tuple[int, Numpy]]:
        """Start and images of the chunks that hold any image of `which`."""
        for start in range(0, self._shape[0], _CHUNK):
            if which[start : start + _CHUNK].any():
                count = min(_CHUNK, self._shape[0] - start)
                self._images.seek(start * self._size)
                data = self._images.read(count * self._size).ljust(count * self._size, b"\0")
                yield start, np.frombuffer(data, np.uint8).reshape(count, *self._shape[1:])

    def _checks(self, indices: Numpy, rows: Numpy) -> Numpy:
        """The CRC-32 [n] of each row [n] of `STORED`, for the image of its index and for this run."""
        plain = np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)[:, :_COVERED]
        own = (zlib.crc32(f"{self._run} {index}".encode()) for index in indices.tolist())
        return np.fromiter((zlib.crc32(row.tobytes(), seed) for row, seed in zip(plain, own, strict=True)), np.uint32)

    def close(self) -> None:
        """Close the files."""
        self._images.close()
        self._file.close()


def crcs(images: Numpy) -> Numpy:
    """CRC-32 of each image: uint32 [n]."""
    return np.fromiter((zlib.crc32(np.ascontiguousarray(image).data) for image in images), np.uint32, len(images))


def check_files(folder: Path, expected: set[str]) -> None:
    """Check that an unfinished run holds no file of anyone else's, which `remove` would delete with it.

    Raises:
        BadInputError: it does.
    """
    foreign = foreign_files(folder, expected)
    if foreign:
        raise BadInputError(
            f"{folder} holds what is not of the run ({', '.join(foreign[:3])}); move that elsewhere and go on with "
            f"--resume, or remove all of it: {remove_it(folder)}"
        )


def foreign_files(folder: Path, expected: set[str]) -> list[str]:
    """Names in a run's folder besides `expected` (paths with forward slashes); what systems hide there does not count."""
    folders = {name.partition("/")[0] for name in expected if "/" in name}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.name.startswith(".")}
    return sorted(found - expected - folders)


def _open(path: Path, size: int) -> tuple[BinaryIO, int]:
    """A file of the run at its right size, and the size it had; one that was cut or is missing is filled with zeros."""
    if path.is_symlink() or (path.exists() and not stat.S_ISREG(path.stat().st_mode)):
        raise BadInputError(f"{path} is no plain file, so it is no run's; remove it: {remove_it(path.parent)}")
    path.parent.mkdir(exist_ok=True)
    file = path.open("r+b" if path.exists() else "w+b")
    had = os.fstat(file.fileno()).st_size
    if had != size:
        file.truncate(size)
    return file, min(had, size)


def write_at(file: BinaryIO, offset: int, data: bytes) -> None:
    """Write into a file; the system may keep the data in memory until `sync`."""
    file.seek(offset)
    file.write(data)
    file.flush()


def sync(file: BinaryIO) -> None:
    """Force what was written to the disk."""
    os.fsync(file.fileno())


def _write_rows(file: BinaryIO, indices: Numpy, rows: Numpy) -> None:
    size, done = rows[0].nbytes, 0
    for start, stop in runs(indices):
        write_at(file, start * size, np.ascontiguousarray(rows[done : done + stop - start]).tobytes())
        done += stop - start
