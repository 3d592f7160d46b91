"""Zip and tar files of images, and the choice of a container by suffix."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import tarfile
import tempfile
import zipfile
from pathlib import Path
from threading import Lock
from typing import IO

from jboost.engine.errors import BadInputError, one_line
from jboost.engine.system.names import check_names

from .containers import DAMAGE, Container, Folder, folders_above
from .identity import zip_contents
from .listing import HEAD, TAR_SUFFIXES, is_junk

# Image files do not shrink, so that an archive of them that grows more than this was made to fill the disk.
_MOST_GROWTH = 100
_BLOCK = 512
_CHUNK = 1 << 20


def open_container(path: Path) -> Container:
    """The folder, zip or tar file at `path`, by its suffix.

    Raises:
        BadInputError: it is damaged, or holds a hostile name.
    """
    if path.is_dir():
        return Folder(path)
    return Tar(path) if is_tar_name(path) else Zip(path)


def is_tar_name(path: Path) -> bool:
    """Whether a file is a tar file, by its suffix."""
    return path.name.lower().endswith(TAR_SUFFIXES)


class Zip(Container):
    """A zip file. Names with backslashes, as some Windows programs write them, are read as the paths that they mean."""

    kind = "zip"

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            self._archive = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as e:
            raise BadInputError(f"{path} is not a readable zip file ({e}); make or copy it again") from e
        members = [(info.filename.replace("\\", "/"), info) for info in self._archive.infolist()]
        check_names(path, (name for name, _ in members))
        self._members = {name: info for name, info in members if not name.endswith("/")}
        for name, info in members:
            if is_junk(name):
                continue
            if name.endswith("/"):
                self.folders.add(name.rstrip("/"))
            else:
                self._add(name, info.file_size)
        self.folders |= folders_above(self.sizes)

    def source(self, name: str) -> bytes | Path:
        """A file's bytes."""
        return self._archive.read(self._members[name])  # which locks the file

    def head(self, name: str) -> bytes:
        """The first bytes of a file."""
        try:
            with self._archive.open(self._members[name]) as f:
                return f.read(HEAD)
        except DAMAGE as e:
            raise BadInputError(f"{self.shown(name)} is damaged ({one_line(e)}); make or copy it again") from e

    def contents(self, names: list[str]) -> str:
        """A hash of the files `names`, hex."""
        return zip_contents(self._archive)


class Tar(Container):
    """A tar file, perhaps compressed; a compressed one is unpacked once, into a temporary file without a name."""

    kind = "tar"

    def __init__(self, path: Path):
        super().__init__(path)
        self._lock = Lock()  # the file has one read position
        try:
            self._file = _uncompressed(path)
            with tarfile.open(fileobj=self._file, mode="r:") as archive:
                members = archive.getmembers()
                self._check_end(archive.offset)
        except BadInputError:
            raise
        except DAMAGE as e:
            raise BadInputError(f"{path} is not a readable tar file ({one_line(e)}); make or copy it again") from e
        named = [(member.name.removeprefix("./"), member) for member in members if member.name not in (".", "./")]
        check_names(path, (f"{name}/" if member.isdir() else name for name, member in named))
        self._members = {}
        for name, member in named:
            if is_junk(name):
                continue
            if member.isdir():
                self.folders.add(name)
                continue
            if not member.isfile() or member.issparse():
                raise BadInputError(
                    f"{path} holds {name}, which is a link or no plain file; write the archive again with the files that "
                    "links lead to: tar --dereference --hard-dereference -cf FILE ..."
                )
            self._members[name] = member.offset_data
            self._add(name, member.size)
        self.folders |= folders_above(self.sizes)

    def _check_end(self, offset: int) -> None:
        # tarfile takes an archive that was cut between two files, or a damaged header, for the end.
        self._file.seek(offset)
        if self._file.read(_BLOCK) != bytes(_BLOCK):
            raise BadInputError(f"{self.path} is truncated or damaged after {offset:,} bytes; make or copy it again")
        while chunk := self._file.read(_CHUNK):
            if chunk.strip(b"\0"):
                raise BadInputError(
                    f"{self.path} holds data behind its end, perhaps another tar; write both again as one, unpacked first"
                )

    def source(self, name: str) -> bytes | Path:
        """A file's bytes."""
        with self._lock:
            self._file.seek(self._members[name])
            data = self._file.read(self.sizes[name])
        if len(data) != self.sizes[name]:
            raise EOFError("it is truncated")
        return data

    def head(self, name: str) -> bytes:
        """The first bytes of a file."""
        with self._lock:
            self._file.seek(self._members[name])
            return self._file.read(min(HEAD, self.sizes[name]))

    def contents(self, names: list[str]) -> str:
        """A hash of the files `names`, hex."""
        digest = hashlib.blake2b(digest_size=32)
        for name in sorted(names):
            content = self.read(name)
            digest.update(repr((name, len(content))).encode())
            digest.update(content)
        return digest.hexdigest()


def _uncompressed(path: Path) -> IO[bytes]:
    """A tar file, seekable."""
    with path.open("rb") as f:
        magic = f.read(6)
    if not magic.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")):
        return path.open("rb")
    reader = gzip.open if magic[:2] == b"\x1f\x8b" else bz2.open if magic[:3] == b"BZh" else lzma.open
    most = max(1 << 30, _MOST_GROWTH * path.stat().st_size)
    out = tempfile.TemporaryFile()  # noqa: SIM115 (it is read for as long as the set is)
    with reader(path) as packed:
        done = 0
        while chunk := packed.read(_CHUNK):
            done += len(chunk)
            if done > most:
                raise BadInputError(f"{path} unpacks to more than {most:,} bytes; unpack it, and give the folder")
            try:
                out.write(chunk)
            except OSError as e:
                raise BadInputError(
                    f"no room to unpack {path} in {tempfile.gettempdir()} ({e.strerror}); set TMPDIR to a folder that has room, or "
                    "unpack it yourself and give the folder"
                ) from e
    out.seek(0)
    return out
