"""What holds a set's files, and the folder; `jboost.engine.samples.archives` has zip and tar files."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

from jboost.engine.errors import BadInputError, one_line

from .identity import folder_contents
from .listing import HEAD, is_junk

#: The most bytes of a file in a set. Files are read whole, and an archive of a few kilobytes may hold gigabytes of zeros.
FILE_LIMIT = 256 << 20
_DEEPEST = 100
#: What the libraries raise for damaged and hostile files.
DAMAGE = (
    OSError, EOFError, ValueError, zipfile.BadZipFile, tarfile.TarError, zlib.error, NotImplementedError, RuntimeError,
    MemoryError, OverflowError,
)  # fmt: skip


class Container(ABC):
    """Files by name; names have forward slashes, and an archive's are safe to write elsewhere.

    Attributes:
        path: the folder or file.
        kind: ``"folder"``, ``"zip"`` or ``"tar"``.
        sizes: bytes of each file, by name, junk left out.
        folders: names of all folders, also those without files.
        notes: what was left out, a sentence each.
    """

    kind: str

    def __init__(self, path: Path):
        self.path = path
        self.sizes: dict[str, int] = {}
        self.folders: set[str] = set()
        self.notes: tuple[str, ...] = ()

    def shown(self, name: str) -> str:
        """A file of the container, for a message."""
        return f"{self.path}: {name}"

    @abstractmethod
    def source(self, name: str) -> bytes | Path:
        """A file's bytes, or its path where it is a file of its own. Safe to call from several threads."""

    @abstractmethod
    def contents(self, names: list[str]) -> str:
        """A hash of the files `names`, hex."""

    @abstractmethod
    def head(self, name: str) -> bytes:
        """The first bytes of a file."""

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            BadInputError: it cannot be read, or it is larger than `FILE_LIMIT`.
        """
        if self.sizes[name] > FILE_LIMIT:
            raise BadInputError(
                f"{self.path}: {name} has {self.sizes[name]:,} bytes, at most {FILE_LIMIT:,} are read; leave it out of the set"
            )
        try:
            found = self.source(name)
            return found if isinstance(found, bytes) else found.read_bytes()
        except DAMAGE as e:
            raise BadInputError(f"{self.shown(name)} is damaged ({one_line(e)}); make or copy it again") from e

    def _add(self, name: str, size: int) -> None:
        self.sizes[name] = size


class Folder(Container):
    """A folder and all below it; links are followed, and one that leads back above itself is left out and said."""

    kind = "folder"

    def __init__(self, path: Path):
        super().__init__(path)
        self._loops: list[str] = []
        self._walk("", (self._identity(path),))
        if self._loops:
            self.notes = (f"the link {self._loops[0]} leads to a folder that it lies in; it is not followed",)

    def _identity(self, path: Path) -> tuple[int, int]:
        found = path.stat()
        return found.st_dev, found.st_ino

    def _walk(self, inside: str, above: tuple[tuple[int, int], ...]) -> None:
        folder = self.path / inside
        if len(above) > _DEEPEST:
            raise BadInputError(f"{folder} lies more than {_DEEPEST} folders deep; give a folder that is less deep")
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as e:
            raise BadInputError(f"{folder} cannot be read ({e.strerror or e}); make it readable") from e
        for entry in entries:
            name = f"{inside}/{entry.name}" if inside else entry.name
            if is_junk(entry.name):
                continue
            try:
                found = entry.stat()
            except OSError:
                found = entry.stat(follow_symlinks=False)  # a link to nothing
            if stat.S_ISDIR(found.st_mode):
                here = found.st_dev, found.st_ino
                if here in above:
                    self._loops.append(name)
                    continue
                self.folders.add(name)
                self._walk(name, (*above, here))
            else:
                # -1: nothing that can be read as a file; opening a pipe would wait for its writer.
                self._add(name, found.st_size if stat.S_ISREG(found.st_mode) else -1)

    def shown(self, name: str) -> str:
        """A file's path."""
        return str(self.path / name)

    def source(self, name: str) -> bytes | Path:
        """A file's path."""
        if self.sizes[name] < 0:
            raise BadInputError(f"{self.shown(name)} is not a file (a broken link or a pipe); repair or remove it")
        return self.path / name

    def head(self, name: str) -> bytes:
        """The first bytes of a file."""
        if self.sizes[name] < 0:
            return b""
        try:
            with (self.path / name).open("rb") as f:
                return f.read(HEAD)
        except OSError:  # whatever it is, nothing is made of it
            return b""

    def contents(self, names: list[str]) -> str:
        """A hash of the files `names`, hex."""
        return folder_contents(self.path, names)


def folders_above(names: Iterable[str]) -> set[str]:
    """The folders that files lie in, at every depth."""
    found: set[str] = set()
    for name in names:
        while "/" in name:
            name = name.rpartition("/")[0]
            found.add(name)
    return found
