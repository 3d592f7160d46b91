"""Sample sets in the layout of OpenAI's guided-diffusion: ``arr_0`` uint8 [N, H, W, C], ``arr_1`` integer labels [N].

Images are read and written in batches. The members of the zip file are streamed, never loaded whole.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from jboost.engine.errors import BadInputError

from .base import check_images, check_labels, runs
from .identity import zip_contents

IMAGES, LABELS = "arr_0.npy", "arr_1.npy"
_COPY_CHUNK = 1 << 20
#: The exceptions that zipfile, gzip and numpy raise for a damaged or foreign file.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, NotImplementedError, RuntimeError)


class NpzSamples:
    """An npz file as a `SampleSet`. The output gets copies of the arrays besides ``arr_0`` and ``arr_1``.

    Raises:
        BadInputError: the file is not an npz, is damaged, or does not hold images.
    """

    kind = "npz"
    label_names: tuple[str, ...] | None = None

    def __init__(self, path: Path):
        self.path = path
        self._stream: IO[bytes] | None = None
        try:
            with zipfile.ZipFile(path) as archive:
                self._read_structure(archive)
        except BadInputError:
            raise
        except DAMAGE as e:
            raise BadInputError(
                f"{path} is not a readable npz file ({e}); it may be truncated: make or copy it again"
            ) from e

    def _read_structure(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        headers = {}
        for name in names:
            if name.endswith(".npy"):
                with archive.open(name) as f:
                    headers[name] = read_header(f)
        objects = [name for name, (_, _, dtype, _) in headers.items() if dtype.hasobject]
        if objects:
            raise BadInputError(
                f"{self.path} holds pickled Python objects ({', '.join(objects)}), which jboost never unpickles; "
                "save it again without them"
            )
        if IMAGES not in headers:
            has = ", ".join(names) or "nothing"
            raise BadInputError(
                f"{self.path} has no arr_0 (it has {has}); save it with: np.savez(path, images, labels)"
            )
        shape, fortran, dtype, offset = headers[IMAGES]
        check_images("arr_0", shape, dtype)
        if fortran:
            raise BadInputError(f"{self.path}: arr_0 is in Fortran order; save np.ascontiguousarray(images)")
        n, h, w, c = shape
        self.shape: tuple[int, int, int, int] = (n, h, w, c)
        self._offset = offset
        if archive.getinfo(IMAGES).file_size != offset + math.prod(shape):
            raise BadInputError(f"{self.path}: arr_0 is truncated; make or copy the file again")
        self.labels: np.ndarray[Any, np.dtype[np.int64]] | None = None
        if LABELS in headers:
            with archive.open(LABELS) as f:
                self.labels = check_labels("arr_1", npy.read_array(f, allow_pickle=False), n)
        self.fingerprint = zip_contents(archive)

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at ascending `indices`."""
        size = math.prod(self.shape[1:])
        parts = []
        try:
            if self._stream is None:
                # Kept open: a compressed member can only be read from its start, and a run reads in ascending order.
                self._stream = zipfile.ZipFile(self.path).open(IMAGES)  # noqa: SIM115
            for start, stop in runs(indices):
                self._stream.seek(self._offset + start * size)
                data = self._stream.read((stop - start) * size)
                if len(data) != (stop - start) * size:
                    raise EOFError(f"image {start + len(data) // size} is missing")
                parts.append(np.frombuffer(data, np.uint8).reshape(-1, *self.shape[1:]))
        except DAMAGE as e:
            raise BadInputError(f"{self.path} is damaged ({e}); make or copy it again") from e
        return np.concatenate(parts)


def read_header(f: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, dtype and data offset of an npy stream."""
    version = npy.read_magic(f)
    shape, fortran, dtype = npy.read_array_header_1_0(f) if version == (1, 0) else npy.read_array_header_2_0(f)
    return shape, fortran, dtype, f.tell()


def write_npz(
    out: IO[bytes],
    shape: tuple[int, int, int, int],
    batches: Iterator[np.ndarray[Any, Any]],
    *,
    labels: np.ndarray[Any, Any] | None = None,
    source: NpzSamples | None = None,
) -> None:
    """Write a sample set.

    Args:
        out: binary file, open for writing.
        shape: (N, H, W, C).
        batches: uint8 [n, H, W, C], N images in total.
        labels: int64 [N] for ``arr_1``; unused if `source` is given.
        source: an npz whose other members, labels included, are copied unchanged, in the source's order and with the
            source's compression.
    """
    # ZipInfo has a fixed date by default, so the same images give the same bytes.
    with zipfile.ZipFile(out, "w") as archive:
        if source is None:
            with archive.open(zipfile.ZipInfo(IMAGES), "w", force_zip64=True) as f:
                _write_images(f, shape, batches)
            if labels is not None:
                with archive.open(zipfile.ZipInfo(LABELS), "w", force_zip64=True) as f:
                    npy.write_array(f, labels, allow_pickle=False)
            return
        with zipfile.ZipFile(source.path) as original:
            for old in original.infolist():
                new = zipfile.ZipInfo(old.filename)
                new.compress_type = old.compress_type
                with archive.open(new, "w", force_zip64=True) as f:
                    if old.filename == IMAGES:
                        _write_images(f, shape, batches)
                    else:
                        with original.open(old) as g:
                            while chunk := g.read(_COPY_CHUNK):
                                f.write(chunk)


def _write_images(f: IO[bytes], shape: tuple[int, ...], batches: Iterator[np.ndarray[Any, Any]]) -> None:
    npy.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False, "shape": shape})
    for batch in batches:
        f.write(np.ascontiguousarray(batch).data)
