"""A range of one big npz's images, which is read without what stands before it."""

from __future__ import annotations

import math
import os
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from jboost.engine.errors import BadInputError, one_line
from jboost.engine.system.commands import in_shell

from .npz import DAMAGE, NpzSamples, read_exactly, read_header, read_rows
from .options import AS_IT_IS, ReadOptions

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_AT_A_TIME = 1 << 20


class NpzRange(NpzSamples):
    """The images `first` to `stop` of an npz as a `SampleSet`. Its output holds the same rows of every array of N rows.

    Args:
        path: the file; its images are not compressed.
        first, stop: positions in the whole file, half-open.
        options: how to read it.

    Raises:
        BadInputError: as `NpzSamples`; the images are compressed; or there are no such rows.
    """

    def __init__(self, path: Path, first: int, stop: int, options: ReadOptions = AS_IT_IS):
        super().__init__(path, options)
        self.first, self.all = first, self.shape[0]
        if not 0 <= first < stop <= self.all:
            raise BadInputError(
                f"{path} holds {self.all:,} images, not the images {first:,} to {stop:,}; it has changed"
            )
        check_uncompressed(path, self.images_key)
        self.shape = (stop - first, *self.shape[1:])
        if self.labels is not None:
            self.labels = self.labels[first:stop]

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at ascending `indices`, counted from the range's first."""
        try:
            if self._stream is None:
                self._stream, start = _member(self.path, f"{self.images_key}.npy")
                self._offset += start
            return read_rows(self._stream, self._offset, (self.all, *self.shape[1:]), indices + self.first)
        except (*DAMAGE, struct.error) as e:
            raise BadInputError(f"{self.path} is damaged ({one_line(e)}); make or copy it again") from e

    def copy_member(self, archive: zipfile.ZipFile, member: zipfile.ZipInfo, out: IO[bytes]) -> None:
        """Write the range's rows of an array of N rows; anything else is copied whole."""
        sliced = False
        if member.filename.endswith(".npy"):
            with archive.open(member) as f:
                shape, fortran, dtype, offset = read_header(f)
            sliced = bool(shape) and shape[0] == self.all and not (fortran and len(shape) > 1)
        if not sliced:
            super().copy_member(archive, member, out)
            return
        row, count = math.prod(shape[1:]) * dtype.itemsize, self.shape[0]
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, *shape[1:])}
        npy.write_array_header_1_0(out, header)
        with archive.open(member) as f:
            f.seek(offset + self.first * row)
            left = count * row
            while left:
                data = read_exactly(f, min(left, _AT_A_TIME))
                out.write(data)
                left -= len(data)


def check_uncompressed(path: Path, images_key: str) -> None:
    """Check that an npz can be read from the middle.

    Raises:
        BadInputError: its images are compressed.
    """
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(f"{images_key}.npy").compress_type == zipfile.ZIP_STORED:
            return
    plain = path.with_name(f"{path.stem}.plain.npz")
    program = f"import numpy as np; np.savez({os.fspath(plain)!r}, **np.load({os.fspath(path)!r}))"
    raise BadInputError(
        f"{path} is compressed, so it cannot be read in ranges; save it uncompressed, and boost that: python -c {in_shell(program)}"
    )


def _member(path: Path, name: str) -> tuple[IO[bytes], int]:
    """The file, opened, and where an uncompressed member's bytes begin in it."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(name)
    file = path.open("rb")
    file.seek(info.header_offset)
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if magic != b"PK\3\4":
        file.close()
        raise zipfile.BadZipFile("a member has no header")
    return file, info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
