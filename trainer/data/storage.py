"""Open arrays on disk without loading them: map uncompressed ones, decompress compressed ones once."""

from __future__ import annotations

import gzip
import hashlib
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jboost.engine.errors import BadInputError, FailureError, one_line
from jboost.engine.samples.npz import DAMAGE, check_array_size, read_header
from jboost.engine.system.cache import cache_folder
from jboost.engine.system.names import check_names
from jboost.engine.system.replacing import replacing

#: A set that takes fewer bytes when decompressed is kept in memory instead of in the cache.
IN_MEMORY = 512 << 20
_CHUNK = 1 << 20


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def npz_members(path: Path) -> set[str]:
    """Names of an npz file's arrays, without ``.npy``.

    Raises:
        BadInputError: it is not an npz file, or damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_names(path, archive.namelist())
            return {name.removesuffix(".npy") for name in archive.namelist()}
    except BadInputError:
        raise
    except DAMAGE as e:
        raise BadInputError(
            f"{path} is not a readable npz file ({one_line(e)}); it may be truncated: make or copy it again"
        ) from e


def npz_array(path: Path, member: str, *, parts: int = 1) -> NDArray[Any]:
    """Open one array of an npz file, read-only: mapped, or decompressed.

    Args:
        path: the npz file; it must have the member.
        member: the array's name, without ``.npy``.
        parts: number of such arrays in the set. If they are compressed, all together may take `IN_MEMORY` bytes of
            memory.

    Raises:
        BadInputError: the file is damaged, or the array holds Python objects.
        FailureError: the cache cannot be written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{member}.npy")
            with archive.open(info) as f:
                shape, fortran, dtype, offset = read_header(f)
                if dtype.hasobject:
                    raise BadInputError(
                        f"{path}: {member} holds pickled Python objects, which jboost never unpickles; save it again without them"
                    )
                check_array_size(f"{path}: {member}", info.file_size, shape, dtype, offset)
                if info.compress_type == zipfile.ZIP_STORED:
                    start = _start_of(path, info) + offset
                    return np.memmap(path, dtype, "r", start, shape, order="F" if fortran else "C")
                flat = _decompressed(path, f, dtype, math.prod(shape), IN_MEMORY // parts, name=f"{member} {info.CRC}")
                return flat.reshape(shape, order="F" if fortran else "C")
    except (BadInputError, FailureError):
        raise
    except DAMAGE as e:
        raise BadInputError(f"{path} is damaged: {member} cannot be read ({one_line(e)}); make or copy it again") from e


def _start_of(path: Path, info: zipfile.ZipInfo) -> int:
    """The offset of a stored member's bytes.

    They follow the local header, the file name and the extra field. The header's last two fields are the lengths of
    the name and the extra field.
    """
    with path.open("rb") as f:
        f.seek(info.header_offset)
        local = f.read(30)
    return info.header_offset + 30 + int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")


def is_gzip(path: Path) -> bool:
    """Whether a file is compressed with gzip, by its contents."""
    with path.open("rb") as f:
        return f.read(2) == b"\x1f\x8b"


def bytes_after(path: Path, start: int, count: int) -> NDArray[np.uint8]:
    """Open the `count` bytes of a file from `start` to its end: mapped, or decompressed if the file is gzipped.

    Raises:
        BadInputError: the file is damaged, or holds fewer or more bytes.
        FailureError: the cache cannot be written.
    """
    try:
        if is_gzip(path):
            with gzip.open(path) as f:
                f.seek(start)
                return _decompressed(path, f, np.dtype(np.uint8), count, IN_MEMORY, name="gzip")
        if path.stat().st_size != start + count:
            raise EOFError(f"it has {path.stat().st_size} bytes instead of {start + count}")
        return np.memmap(path, np.uint8, "r", start, (count,))
    except (BadInputError, FailureError):
        raise
    except DAMAGE as e:
        raise BadInputError(f"{path} is damaged ({one_line(e)}); make or copy it again") from e


def _decompressed(
    path: Path, f: _Readable, dtype: np.dtype[Any], count: int, in_memory: int, *, name: str
) -> NDArray[Any]:
    """Read the `count` items to the end of a stream, into memory or into a cache file.

    The name of the cache file is a hash of the source's path, size and modification time, and of `name`.
    """
    if count * dtype.itemsize < in_memory:
        out = np.empty(count, dtype)
        _fill(memoryview(out.view(np.uint8).data), f)
        out.flags.writeable = False
        return out
    stat = path.stat()
    key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns} {name}"
    cached = cache_folder() / "data" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.raw"
    if not (cached.exists() and cached.stat().st_size == count * dtype.itemsize):
        _write_cache(cached, f, count * dtype.itemsize)
    return np.memmap(cached, dtype, "r", shape=(count,))


def _fill(view: memoryview, f: _Readable) -> None:
    done = 0
    while done < len(view) and (chunk := f.read(min(_CHUNK, len(view) - done))):
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    _check_end(f, done, len(view))


def _check_end(f: _Readable, done: int, expected: int) -> None:
    # Reading to the end also makes zipfile and gzip check their checksums.
    if done != expected or f.read(1):
        raise EOFError("it is shorter than its header says" if done < expected else "it is longer than its header says")


def _chunks(f: _Readable, size: int) -> Iterator[bytes]:
    """The `size` bytes to the end of a stream.

    Damage raises an error other than OSError, although gzip's own is one: `_write_cache` takes an OSError for a failure to
    write.
    """
    done = 0
    try:
        while done < size and (chunk := f.read(min(_CHUNK, size - done))):
            yield chunk
            done += len(chunk)
        _check_end(f, done, size)
    except OSError as e:
        raise ValueError(str(e)) from e


def _write_cache(cached: Path, f: _Readable, size: int) -> None:
    """Decompress into `cached`; processes that do so at the same time do not disturb each other."""
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as aside, aside.open("wb") as file:
            for chunk in _chunks(f, size):
                file.write(chunk)
    except OSError as e:
        raise FailureError(
            f"cannot decompress {size / 1e9:.1f} GB into the cache, {cached.parent} ({e.strerror or e}); "
            "set JBOOST_CACHE to a folder that has room"
        ) from e
