"""What a sample set contains, as a hash: a resumed run compares it."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Iterable
from pathlib import Path

from jboost.engine.errors import BadInputError


def zip_contents(archive: zipfile.ZipFile) -> str:
    """A hash of a zip file's contents, hex: names, sizes and checksums from its directory, which cost nothing to read."""
    entries = [(entry.filename, entry.CRC, entry.file_size) for entry in archive.infolist()]
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def folder_contents(folder: Path, names: Iterable[str]) -> str:
    """A hash of some files of a folder, hex: their names and bytes, not their times, which copying changes.

    Raises:
        BadInputError: a file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=32)
    for name in sorted(names):
        try:
            content = (folder / name).read_bytes()
        except OSError as e:
            raise BadInputError(f"{folder / name} cannot be read ({e.strerror or e}); make it readable") from e
        digest.update(repr((name, len(content))).encode())
        digest.update(content)
    return digest.hexdigest()


def file_contents(path: Path) -> str:
    """A hash of a file's bytes, hex.

    Raises:
        BadInputError: the file cannot be read.
    """
    try:
        with path.open("rb") as f:
            return hashlib.file_digest(f, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
    except OSError as e:
        raise BadInputError(f"{path} cannot be read ({e.strerror or e}); make it readable") from e
