"""The members of a tar file, found once and then read by their offsets."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from jboost.engine.errors import BadInputError, one_line, printable
from jboost.engine.system.names import check_names

#: The exceptions that tarfile raises for damaged and foreign files.
DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, MemoryError, RecursionError, IndexError)
_BLOCK = 512


@dataclass(frozen=True)
class Member:
    """A file in a tar.

    Attributes:
        name: its name, without the ``./`` that some programs write before it.
        offset: where its data begin.
        size: bytes.
    """

    name: str
    offset: int
    size: int

    def read(self, f: IO[bytes]) -> bytes:
        """Its data.

        Raises:
            EOFError: the tar is shorter than it says.
        """
        f.seek(self.offset)
        data = f.read(self.size)
        if len(data) != self.size:
            raise EOFError(f"{self.name} is truncated")
        return data


def tar_members(path: Path) -> list[Member]:
    """The files of an uncompressed tar, in its order.

    Raises:
        BadInputError: the tar is compressed or damaged, or a member has a name that is refused, is a link, a device or
            sparse, or reaches beyond the end of the file.
    """
    with path.open("rb") as f:
        start = f.read(6)
    packed = {b"\x1f\x8b": "gunzip -k", b"BZh": "bunzip2 -k", b"\xfd7zXZ\0": "unxz -k", b"(\xb5/\xfd": "unzstd"}
    if tool := next((tool for magic, tool in packed.items() if start.startswith(magic)), None):
        raise BadInputError(
            f"{path} is a compressed tar, in which no image can be read without all before it; unpack it first: {tool} {path}"
        )
    members: list[Member] = []
    try:
        size = path.stat().st_size
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                archive.members = []  # else it keeps them all
                if info.isdir():
                    continue
                name = info.name.removeprefix("./")
                if not info.isreg() or info.sparse is not None:
                    raise BadInputError(
                        f"{path}: {printable(name[:100])} is a link, a device or sparse; write the tar again with its contents: "
                        "tar --dereference --create --file NEW.tar FOLDER"
                    )
                if info.offset_data + info.size > size:
                    raise EOFError(f"{printable(name[:100])} is truncated")
                members.append(Member(name, info.offset_data, info.size))
            _check_end(path, archive.offset)
    except BadInputError:
        raise
    except DAMAGE as e:
        raise BadInputError(f"{path} is not a readable tar file ({one_line(e)}); make or copy it again") from e
    check_names(path, [member.name for member in members])
    return members


def _check_end(path: Path, offset: int) -> None:
    """Check that a tar's end mark stands where its members end: tarfile stops without a word where a header is damaged.

    Raises:
        EOFError: there is no end mark.
        ValueError: something else is there, or behind it.
    """
    with path.open("rb") as f:
        f.seek(offset)
        if len(f.read(_BLOCK)) < _BLOCK:
            raise EOFError("it has no end mark, so it is truncated")
        f.seek(offset)
        while chunk := f.read(1 << 20):
            if chunk.strip(b"\0"):
                raise ValueError("a damaged header, or another tar behind the first")
