"""The shards of a run, in order, with the names of their outputs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jboost.engine.errors import BadInputError, printable
from jboost.engine.samples import ReadOptions, SampleSet, open_samples
from jboost.engine.samples.files import KINDS
from jboost.engine.samples.listing import TAR_SUFFIXES, is_junk
from jboost.engine.samples.npz_range import NpzRange
from jboost.engine.samples.patterns import (
    SHARD_SUFFIXES,
    expand,
    is_pattern,
    is_shard_name,
    shard_files,
    suffix_of_shard,
)


@dataclass(frozen=True)
class Shard:
    """A part of the input whose output is one file.

    Attributes:
        name: the output's file name.
        path: the input file.
        size: the input file's bytes.
        first, stop: the range of images in an npz that is cut into several; None for a whole file.
    """

    name: str
    path: Path
    size: int
    first: int | None = None
    stop: int | None = None

    def open(self, options: ReadOptions) -> SampleSet:
        """The shard's images.

        Raises:
            BadInputError: the file is damaged, or it is another one than when the run was planned.
        """
        if self.path.stat().st_size != self.size:
            raise BadInputError(
                f"{self.path} has changed since the run was planned; put the file back, or begin a new run"
            )
        if self.first is None or self.stop is None:
            return open_samples(self.path, options)
        from jboost.engine.samples.fitted import fitted

        return fitted(NpzRange(self.path, self.first, self.stop, options), options)


@dataclass(frozen=True)
class Plan:
    """The shards of a run in order, and what the user called them."""

    source: Path
    shards: tuple[Shard, ...]

    def digest(self, options: ReadOptions) -> str:
        """A hash of the shards' names and ranges, and of how they are read.

        Sizes are compared for finished shards only, see `jboost.engine.shards.done.check_inputs`: a bad shard may be mended.
        """
        text = repr([(shard.name, shard.first, shard.stop) for shard in self.shards])
        return options.apply_to(hashlib.sha256(text.encode()).hexdigest())


def is_many(sources: Sequence[Path]) -> bool:
    """Whether a command's inputs are shards: several files, a pattern, or a folder of shard files."""
    return len(sources) > 1 or is_pattern(sources[0]) or bool(shard_files(sources[0]))


def make_plan(sources: Sequence[Path], ranges: int | None = None, options: ReadOptions | None = None) -> Plan:
    """The plan for a command's inputs.

    Args:
        sources: files, patterns and folders of shards, in order.
        ranges: how many ranges to cut one npz into; None: not at all.
        options: how the npz is read, if it is cut.

    Raises:
        BadInputError: there is no such file; two outputs would have one name; a file is no shard; or one that cannot be read in
            ranges is to be cut.
    """
    files = [file for source in sources for file in _files(source)]
    if ranges is not None:
        if len(files) != 1 or KINDS.get(files[0].suffix.lower()) != "npz":
            raise BadInputError(
                f"--shards cuts one npz file into ranges, but {len(files):,} file(s) are given (first: {files[0]}); leave it "
                "out: each file is a shard"
            )
        shards = _ranges(files[0], ranges, options or ReadOptions())
    else:
        shards = [_shard(file) for file in files]
    taken: dict[str, Path] = {}
    for shard in shards:
        other = taken.setdefault(shard.name.casefold(), shard.path)
        if other is not shard.path:
            raise BadInputError(
                f"{other} and {shard.path} would both be written as {shard.name}; rename one, or boost them "
                "into folders of their own"
            )
    return Plan(_called(sources, files), tuple(shards))


def _files(source: Path) -> list[Path]:
    if is_pattern(source):
        return expand(source)
    if found := shard_files(source):
        return found
    if not source.exists():
        raise BadInputError(
            f"{source} does not exist; name a file, a pattern such as 'shards/*.tar', or a folder of shards"
        )
    return [source]


def _shard(path: Path) -> Shard:
    if path.is_dir() or (KINDS.get(path.suffix.lower(), "folder") == "folder" and not is_shard_name(path.name)):
        raise BadInputError(f"{path} is no shard; shards are files: {', '.join(SHARD_SUFFIXES[:3])}, ...")
    if is_junk(path.name):
        raise BadInputError(f"{path} has a name that systems use for files of their own; rename it")
    suffix = suffix_of_shard(path.name)
    name = f"{path.name[: -len(suffix)]}.tar" if suffix in TAR_SUFFIXES else path.name
    return Shard(name, path, path.stat().st_size)


def _ranges(path: Path, count: int, options: ReadOptions) -> list[Shard]:
    """An npz in `count` ranges of equal size, the first ones larger by one image where it does not divide."""
    images = open_samples(path, replace(options, channels=None, resize=None)).shape[0]
    if not 1 <= count <= images:
        raise BadInputError(
            f"{path} holds {images:,} images, which make no {count:,} shards; give --shards from 1 to {images:,}"
        )
    whole = _shard(path)
    NpzRange(path, 0, 1, options)
    width = max(5, len(str(count)))
    small, larger = divmod(images, count)
    starts = [i * small + min(i, larger) for i in range(count + 1)]
    return [
        replace(whole, name=f"{path.stem}.{i:0{width}d}-of-{count:0{width}d}.npz", first=starts[i], stop=starts[i + 1])
        for i in range(count)
    ]


def _called(sources: Sequence[Path], files: Sequence[Path]) -> Path:
    """One path that names all inputs, for people and for `open_samples`."""
    if len(sources) == 1:
        return sources[0]
    parent = files[0].parent
    names = [file.name for file in files]
    if all(file.parent == parent for file in files) and not any(set("{},") & set(name) for name in names):
        return parent / f"{{{','.join(names)}}}"
    return Path(printable(" ".join(map(str, sources))))
