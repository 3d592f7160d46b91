"""Several files by one argument: braces as WebDataset and bash have them, globs, and folders of shard files."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

from jboost.engine.errors import BadInputError, printable
from jboost.engine.system.typed import as_list, as_mapping, as_text, load_json

from .listing import TAR_SUFFIXES, is_image_name, is_junk

#: Suffixes of the files that make a folder a folder of shards.
SHARD_SUFFIXES = (".npz", ".parquet", *TAR_SUFFIXES)
#: The file in which a run over shards keeps what it is, and their order.
RUN = "run.json"
#: The most files that one argument may name.
MOST = 10_000_000
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_pattern(path: str | Path) -> bool:
    """Whether a path stands for several files: it has braces or wildcards, and no file has that very name."""
    text = os.fspath(path)
    return bool(_BRACES.search(text) or glob.has_magic(text)) and not os.path.lexists(text)


def expand(pattern: str | Path) -> list[Path]:
    """The files that a pattern names: braces in their order, the matches of a wildcard in sorted order.

    Raises:
        BadInputError: it matches nothing, a file that the braces name does not exist, or there are more than `MOST`.
    """
    text = os.fspath(pattern)
    found: list[Path] = []
    for name in names_of(text):
        if glob.has_magic(name) and not os.path.lexists(name):
            found += [Path(match) for match in sorted(glob.glob(name, recursive=True))]
        else:
            found.append(Path(name))
    missing = [path for path in found if not path.exists()]
    if not found or len(missing) == len(found):
        raise BadInputError(f"{printable(text)} matches no file; check the path, and quote the pattern for the shell")
    if missing:
        raise BadInputError(
            f"{missing[0]} does not exist: {len(missing):,} of the {len(found):,} files of {printable(text)} are missing; make "
            "them, or name those that are there"
        )
    return found


def names_of(pattern: str | Path) -> Iterator[str]:
    """What a pattern's braces stand for, in order; wildcards stay.

    Raises:
        BadInputError: these are more than `MOST`.
    """
    text = os.fspath(pattern)
    parts = _BRACES.split(text)
    choices = [_choices(part) if i % 2 else [part] for i, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST:
        raise BadInputError(f"{printable(text)} names {count:,} files; at most {MOST:,} are taken")
    return ("".join(chosen) for chosen in product(*choices))


def _choices(inside: str) -> Sequence[str]:
    """What a pair of braces stands for: ``00..12`` or ``a,b``; anything else is itself."""
    if (found := _RANGE.fullmatch(inside)) is not None:
        first, last = found.groups()
        if max(len(first), len(last)) > len(str(MOST)) + 8:
            raise BadInputError(f"{{{printable(inside[:60])}}} is too wide a range")
        start, stop = int(first), int(last)
        if abs(stop - start) >= MOST:
            raise BadInputError(
                f"{{{printable(inside)}}} names {abs(stop - start) + 1:,} files; at most {MOST:,} are taken"
            )
        width = max(len(first), len(last)) if any(len(n) > 1 and n.startswith("0") for n in (first, last)) else 0
        way = 1 if stop >= start else -1
        return [f"{number:0{width}d}" for number in range(start, stop + way, way)]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]


def shard_files(folder: Path) -> list[Path]:
    """The shard files of a folder: in the order of the run that wrote them, else sorted; empty if it is no folder of shards.

    A folder that holds an image file, at its top or in a folder in it, is a folder of images.

    Raises:
        BadInputError: it holds shards of several kinds.
    """
    if not folder.is_dir():
        return []
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if not is_junk(entry.name))
    except OSError:
        return []
    shards = [name for name in names if is_shard_name(name) and (folder / name).is_file()]
    if not shards or any(map(is_image_name, names)):
        return []
    if (ordered := _ordered(folder)) is not None:
        return [folder / name for name in ordered if (folder / name).is_file()]
    for entry in names:
        if (folder / entry).is_dir() and any(
            is_image_name(n) for _, _, files in os.walk(folder / entry) for n in files
        ):
            return []
    kinds = sorted({".tar" if suffix_of_shard(n) in TAR_SUFFIXES else suffix_of_shard(n) for n in shards})
    if len(kinds) > 1:
        raise BadInputError(
            f"{folder} holds shards of several kinds ({', '.join(kinds)}); name those to read: '{folder}/*{kinds[0]}'"
        )
    return [folder / name for name in shards]


def _ordered(folder: Path) -> list[str] | None:
    """The shards' names in the order of the run that wrote the folder; None if no run did."""
    try:
        content = as_mapping(load_json((folder / RUN).read_bytes()), RUN)
        names = [
            as_text(as_list(shard, "a shard")[0], "a name") for shard in as_list(content["shards"], "shards", most=MOST)
        ]
    except (OSError, BadInputError, KeyError, IndexError):
        return None
    return names if all(Path(name).name == name for name in names) else None


def is_shard_name(name: str) -> bool:
    """Whether a file is a shard, by its suffix."""
    return name.lower().endswith(SHARD_SUFFIXES)


def suffix_of_shard(name: str) -> str:
    """The suffix of a file, with both parts of ``.tar.gz``; in lower case."""
    low = name.lower()
    return next((suffix for suffix in TAR_SUFFIXES if low.endswith(suffix)), Path(low).suffix)
