"""Sample sets in the layout of OpenAI's guided-diffusion: ``arr_0`` uint8 [N, H, W, C], ``arr_1`` integer labels [N].

`keys.py` lists the other names that are recognised.

Images are read and written in batches. The members of the zip file are streamed, never loaded whole.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from jboost.engine.errors import BadInputError, one_line, printable
from jboost.engine.system.names import check_names

from .base import check_images, check_labels, runs
from .identity import zip_contents
from .keys import PAIRS, choose_arrays, some
from .options import AS_IT_IS, ReadOptions
from .remedies import rows_within

IMAGES, LABELS = "arr_0.npy", "arr_1.npy"
_COPY_CHUNK = 1 << 20
#: The most bytes of an npy header. numpy's own are about 100; its parser takes no more than this.
HEADER_LIMIT = 10_000
#: The exceptions that zipfile, gzip and numpy raise for a damaged or foreign file.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, NotImplementedError, RuntimeError)


class NpzSamples:
    """An npz file as a `SampleSet`. The output gets copies of the arrays besides the images.

    Attributes:
        images_key, labels_key: the names of its arrays; `labels_key` is None without labels.

    Raises:
        BadInputError: the file is not an npz, is damaged, or does not hold images; or its names leave open which they are.
    """

    kind = "npz"
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, options: ReadOptions = AS_IT_IS):
        self.path = path
        self._options = options
        self._stream: IO[bytes] | None = None
        try:
            with zipfile.ZipFile(path) as archive:
                self._read_structure(archive)
        except BadInputError:
            raise
        except DAMAGE as e:
            raise BadInputError(
                f"{path} is not a readable npz file ({one_line(e)}); it may be truncated: make or copy it again"
            ) from e

    def _read_structure(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        check_names(self.path, names)
        on_disk = self.path.stat().st_size
        if bad := next((i.filename for i in archive.infolist() if i.compress_size > on_disk), None):
            raise BadInputError(f"{self.path}: {bad} is truncated; make or copy the file again")
        headers = {}
        for name in names:
            if name.endswith(".npy"):
                with archive.open(name) as f:
                    headers[name.removesuffix(".npy")] = read_header(f)
        objects = [name for name, (_, _, dtype, _) in headers.items() if dtype.hasobject]
        if objects:
            raise BadInputError(
                f"{self.path} holds pickled Python objects ({some(objects)}), which jboost never unpickles; save it "
                f"again without them, or with np.array({printable(objects[0])}.tolist()) if they are numbers"
            )
        shapes = {name: shape for name, (shape, _, _, _) in headers.items()}
        self.images_key, self.labels_key = choose_arrays(
            self.path, shapes, self._options, save="np.savez(path, images, labels)"
        )
        self._read_images(archive, *headers[self.images_key])
        n = self.shape[0]
        self.labels: np.ndarray[Any, np.dtype[np.int64]] | None = None
        self.label_source = f"none: no {PAIRS.get(self.images_key, 'labels')}"
        if self.labels_key is not None:
            shape, fortran, dtype, offset = headers[self.labels_key]
            if shape and shape[0] != n and shape != (1, n):  # by the header, before the array takes memory
                raise BadInputError(f"{self.labels_key} has {shape[0]} labels for {n} images; they must match")
            part = self._part(archive, self.labels_key, shape, fortran, dtype, offset)
            self.labels = check_labels(self.labels_key, part, n, shape=shape)
            self.label_source = self.labels_key
        self.fingerprint = self._options.apply_to(zip_contents(archive))

    def _read_images(
        self, archive: zipfile.ZipFile, shape: tuple[int, ...], fortran: bool, dtype: np.dtype[Any], offset: int
    ) -> None:
        key = self.images_key
        right = dtype == np.uint8 and len(shape) == 4 and shape[3] in (1, 3)
        part = None if right else self._part(archive, key, shape, fortran, dtype, offset)
        check_images(key, shape, dtype, part)
        if fortran:
            raise BadInputError(f"{self.path}: {key} is in Fortran order; save np.ascontiguousarray({key})")
        self._offset = offset
        n, h, w, c = shape
        self.shape: tuple[int, int, int, int] = (n, h, w, c)
        if archive.getinfo(f"{key}.npy").file_size != offset + math.prod(shape):
            raise BadInputError(f"{self.path}: {key} is truncated; make or copy the file again")

    def _part(
        self,
        archive: zipfile.ZipFile,
        key: str,
        shape: tuple[int, ...],
        fortran: bool,
        dtype: np.dtype[Any],
        offset: int,
    ) -> np.ndarray[Any, Any]:
        """An array's first rows: all of [N], and of other shapes what takes little memory."""
        check_array_size(f"{self.path}: {key}", archive.getinfo(f"{key}.npy").file_size, shape, dtype, offset)
        rows = shape[0] if len(shape) == 1 else rows_within(shape, dtype)
        part = (rows, *shape[1:]) if shape else ()
        if fortran and part != shape:
            part = (0, *shape[1:])  # its first bytes are no rows
        with archive.open(f"{key}.npy") as f:
            f.seek(offset)
            # Not numpy's reader: it allocates what the header says, and the zip directory may lie as well.
            data = read_exactly(f, math.prod(part) * dtype.itemsize)
        return np.frombuffer(data, dtype).reshape(part, order="F" if fortran else "C")

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at ascending `indices`."""
        try:
            if self._stream is None:
                # Kept open: a compressed member can only be read from its start, and a run reads in ascending order.
                self._stream = zipfile.ZipFile(self.path).open(f"{self.images_key}.npy")  # noqa: SIM115
            return read_rows(self._stream, self._offset, self.shape, indices)
        except DAMAGE as e:
            raise BadInputError(f"{self.path} is damaged ({one_line(e)}); make or copy it again") from e

    def copy_member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, out: IO[bytes]) -> None:
        """Write what the output keeps of a member of the opened file, besides the images: all of it."""
        with archive.open(member) as f:
            while chunk := f.read(_COPY_CHUNK):
                out.write(chunk)


def read_rows(
    stream: IO[bytes], offset: int, shape: tuple[int, ...], indices: np.ndarray[Any, Any]
) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Rows of an array uint8 of `shape` whose values begin at `offset`, at ascending `indices`.

    Raises:
        EOFError: the stream is shorter than that.
    """
    size = math.prod(shape[1:])
    parts = []
    for start, stop in runs(indices):
        stream.seek(offset + start * size)
        data = read_exactly(stream, (stop - start) * size)
        parts.append(np.frombuffer(data, np.uint8).reshape(-1, *shape[1:]))
    return np.concatenate(parts)


def read_header(f: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, dtype and data offset of an npy stream.

    Raises:
        ValueError: it is no npy stream, its header is longer than `HEADER_LIMIT` bytes, or a size is out of range.
    """
    version = npy.read_magic(f)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"an npy header of version {version}")
    width = 2 if version == (1, 0) else 4
    length = f.read(width)
    size = int.from_bytes(length, "little")
    # By its length field, before the header takes memory.
    if size > HEADER_LIMIT:
        raise ValueError(f"an npy header of {size:,} bytes, at most {HEADER_LIMIT:,} are read")
    header = io.BytesIO(length + f.read(size))
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    try:
        shape, fortran, dtype = read(header)
    except (
        ArithmeticError,
        MemoryError,
        RecursionError,
        SyntaxError,
        TokenError,
        TypeError,
    ) as e:  # of Python's and numpy's parsers
        raise ValueError("an npy header that cannot be parsed") from e
    if any(not 0 <= n < 2**63 for n in shape):
        raise ValueError("an npy header with a size out of range")
    return shape, fortran, dtype, f.tell()


def read_exactly(f: IO[bytes], size: int) -> bytes:
    """Read `size` bytes; memory grows with what is there, not with what a header claims.

    Raises:
        EOFError: the stream has fewer.
    """
    chunks, left = [], size
    while left and (chunk := f.read(min(left, _COPY_CHUNK))):
        chunks.append(chunk)
        left -= len(chunk)
    if left:
        raise EOFError(f"{left:,} of {size:,} bytes are missing")
    return b"".join(chunks)


def check_array_size(name: str, file_size: int, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int) -> None:
    """Check that an npy stream has the size that its header says, before the array takes memory.

    Args:
        name: the array, for the message.
        file_size: bytes of the stream.
        shape, dtype, offset: see `read_header`.

    Raises:
        BadInputError: the sizes differ.
    """
    needed = offset + math.prod(shape) * dtype.itemsize
    if file_size != needed:
        raise BadInputError(
            f"{name} has {file_size:,} bytes, but its header says {list(shape)} of {dtype}, {needed:,} bytes; make or copy "
            "the file again"
        )


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
                write_images(f, shape, batches)
            if labels is not None:
                with archive.open(zipfile.ZipInfo(LABELS), "w", force_zip64=True) as f:
                    npy.write_array(f, labels, allow_pickle=False)
            return
        with zipfile.ZipFile(source.path) as original:
            for old in original.infolist():
                new = zipfile.ZipInfo(old.filename)
                new.compress_type = old.compress_type
                with archive.open(new, "w", force_zip64=True) as f:
                    if old.filename == f"{source.images_key}.npy":
                        write_images(f, shape, batches)
                    else:
                        source.copy_member(original, old, f)


def write_images(f: IO[bytes], shape: tuple[int, ...], batches: Iterator[np.ndarray[Any, Any]]) -> None:
    """Write images uint8 [n, H, W, C], N in total, as an npy stream of `shape`."""
    npy.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False, "shape": shape})
    for batch in batches:
        f.write(np.ascontiguousarray(batch).data)
