"""Opening a sample set of any kind, and writing one atomically."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.system.commands import make_folder
from jboost.engine.system.replacing import replacing, replacing_folder

from .base import SampleSet
from .fitted import fitted, original
from .keys import MissingKeyError
from .listing import TAR_SUFFIXES
from .naming import written_name
from .npz import NpzSamples
from .options import AS_IT_IS, ReadOptions
from .outputs import check_kept, write_as
from .patterns import expand, is_pattern, shard_files
from .several import Several

Batches = Iterator[np.ndarray[Any, Any]]
#: The kind of output for each suffix.
KINDS = {
    ".npz": "npz", ".npy": "npy", ".zip": "zip", ".tar": "tar", ".parquet": "parquet", ".pt": "pt", ".pth": "pt", "": "folder",
}  # fmt: skip
#: Suffixes of files that torch.save writes; checkpoints have them too.
TENSOR_SUFFIXES = (".pt", ".pth")


def check_there(path: Path) -> None:
    """Refuse a sample set that does not exist; a pattern, which names several, passes.

    Raises:
        BadInputError: it does not.
    """
    if not is_pattern(path) and not path.exists():
        raise BadInputError(f"{path} does not exist; give a samples.npz, or a folder, zip or tar of images")


def open_samples(path: str | Path, options: ReadOptions = AS_IT_IS) -> SampleSet:
    """The sample set at `path`: an npz, or a folder, zip or tar file of images.

    Args:
        path: the file or folder; a folder of shards, or a pattern such as ``shards/{00..09}.tar``, is one set, see `Several`.
        options: how to read it.

    Raises:
        BadInputError: `path` does not exist, or it is not a usable sample set.
    """
    path = Path(path)
    if is_pattern(path) or (path.is_dir() and shard_files(path)):
        files = expand(path) if is_pattern(path) else shard_files(path)
        return Several(path, files, lambda file: open_samples(file, options))
    check_there(path)
    return fitted(_open(path, options), options)


def is_sample_file(path: Path) -> bool:
    """Whether a file is a sample set rather than a checkpoint, by its suffix or first bytes."""
    if path.name.lower().endswith((".npz", ".npy", ".parquet", ".zip")):
        return True
    if path.name.lower().endswith(TAR_SUFFIXES):  # so do the names of many checkpoints that are none
        return tarfile.is_tarfile(path)
    with path.open("rb") as f:
        return f.read(6).startswith((b"\x93NUMPY", b"PAR1"))


def _open(path: Path, options: ReadOptions) -> SampleSet:
    """The set as its file has it. Formats are imported where they are opened: most need packages that npz files do not."""
    if path.is_dir() or path.suffix.lower() == ".zip":
        return _image_files(path, options)
    if path.name.lower().endswith(TAR_SUFFIXES):
        return _open_tar(path, options)
    with path.open("rb") as f:
        magic = f.read(6)
    if magic.startswith(b"\x93NUMPY"):
        from .npy import NpySamples

        return NpySamples(path, options)
    if magic.startswith(b"PAR1"):
        from .parquet import ParquetSamples

        return ParquetSamples(path, options)
    if path.suffix.lower() in TENSOR_SUFFIXES:
        from .tensors import TensorSamples

        return TensorSamples(path, options)
    if not magic.startswith(b"PK"):
        raise BadInputError(
            f"{path} is not an npz file, nor another kind of sample set; save one with: np.savez('samples.npz', images, labels)"
        )
    return NpzSamples(path, options)


def _open_tar(path: Path, options: ReadOptions) -> SampleSet:
    from .archives import Tar
    from .shards import ShardSamples, is_shard

    archive = Tar(path)
    return ShardSamples(path, options, archive) if is_shard(archive.sizes) else _image_files(path, options)


def _image_files(path: Path, options: ReadOptions) -> SampleSet:
    from .images import ImageSamples

    if options.images_key is not None or options.labels_key is not None:
        raise MissingKeyError(f"{path} holds image files, which have no keys; leave --images-key and --labels-key out")
    return ImageSamples(path, options)


def output_kind(path: Path) -> str:
    """The kind of output for a path's suffix, one of the values of `KINDS`.

    Raises:
        BadInputError: the suffix is another.
    """
    if path.suffix.lower() not in KINDS:
        raise BadInputError(
            f"output {path} has the suffix {path.suffix!r}; use {', '.join(filter(None, KINDS))}, or no suffix (a folder of PNGs)"
        )
    return KINDS[path.suffix.lower()]


def default_output(samples: SampleSet) -> Path:
    """``samples.boosted.npz`` beside ``samples.npz``; likewise for every kind. A folder gives ``samples_boosted``."""
    path = samples.path
    if samples.kind == "folder":
        path = path.resolve()  # a folder's name must not gain a dot: the rest would count as a suffix
        return path.parent / f"{path.name}_boosted"
    written = next((s for s in TAR_SUFFIXES if path.name.lower().endswith(s)), path.suffix)
    suffix = ".tar" if samples.kind in ("tar", "webdataset") else written
    if suffix.lower() not in KINDS or not suffix:
        suffix = f".{samples.kind}"
    return path.with_name(f"{path.name[: len(path.name) - len(written)]}.boosted{suffix}")


def snapshot_output(out: Path, step: int) -> Path:
    """The path of the snapshot after `step` steps of a run into `out`.

    For ``a.npz`` it is ``a.step5.npz``; for the folder ``a`` it is ``a_step5``.
    """
    return out.with_name(f"{out.stem}{'.' if out.suffix else '_'}step{step}{out.suffix}")


def reading_of(out: Path, source: Path, options: ReadOptions, *, lossy: bool = False) -> ReadOptions:
    """How to read the output `out` of a run that read `source` with `options`.

    Its images have their size already. Its arrays and columns have the source's names if the formats are the same, and else
    the usual ones.
    """
    kinds = [KINDS.get(_written_like(path).suffix.lower()) for path in (source, out)]
    if kinds[0] != kinds[1]:
        return replace(options, resize=None, images_key=None, labels_key=None)
    key = options.images_key
    if kinds[1] == "tar" and key is not None:
        key = written_name(f"x.{key}", lossy=lossy)[2:]
    return replace(options, resize=None, images_key=key)


def _written_like(path: Path) -> Path:
    """A file whose suffix tells how a set is written: of a folder of shards, the first."""
    return next(iter(shard_files(path)), path)


def check_output(out: Path, samples: SampleSet, *, bytes_needed: int, lossy: bool = False) -> None:
    """Check that `out` can be written, before any work is done.

    Raises:
        BadInputError: `out` is the input or inside it, has an unknown suffix, is a folder in the way of a file or a
            folder with contents; or its parent does not exist, is not writable or has too little room; or its format
            has no room for the labels, or no JPEGs for `lossy`.
    """
    kind = output_kind(out)
    check_kept(out, kind, original(samples) or samples, lossy=lossy)
    parent = out.parent
    if out.resolve() == samples.path.resolve():
        raise BadInputError(f"output {out} is the input itself; name another file with -o")
    if samples.kind == "folder" and samples.path.resolve() in out.resolve().parents:
        raise BadInputError(f"output {out} is inside the input folder; name a place outside it with -o")
    if not parent.is_dir():
        raise BadInputError(f"output folder {parent} does not exist; make it with: {make_folder(parent)}")
    if kind != "folder" and out.is_dir():
        raise BadInputError(f"output {out} is a folder; name a file with -o")
    if kind == "folder" and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInputError(f"output folder {out} exists and is not empty; remove it or name another with -o")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BadInputError(f"output folder {parent} is not writable; name another place with -o")
    free = shutil.disk_usage(parent).free
    if free < bytes_needed:
        raise BadInputError(
            f"{parent} has {free / 1e6:,.0f} MB free, the run needs {bytes_needed / 1e6:,.0f} MB; free some space or "
            "name another place with -o"
        )


def write_samples(
    out: Path,
    shape: tuple[int, int, int, int],
    batches: Batches,
    *,
    labels: np.ndarray[Any, Any] | None = None,
    source: SampleSet | None = None,
    lossy: bool = False,
) -> None:
    """Write a sample set atomically.

    Args:
        out: the file or folder to write; its suffix gives the kind (see `output_kind`).
        shape: (N, H, W, C).
        batches: uint8 [n, H, W, C], N images in total.
        labels: int64 [N] or None.
        source: the set that the images were made from. The output takes over its images' names and, if it has the same
            format, its other contents.
        lossy: whether the source's JPEGs stay JPEGs where the output has files.

    Raises:
        BadInputError: the disk is full, or `out` is not writable.
    """
    kind = output_kind(out)
    try:
        with replacing_folder(out) if kind == "folder" else replacing(out) as aside:
            write_as(kind, aside, shape, batches, labels, original(source), lossy=lossy)
    except OSError as e:
        raise cannot_write(out, e) from e


def cannot_write(path: Path, e: OSError) -> BadInputError:
    """The error for a write that the system refused."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return BadInputError(f"no room for {path} ({e.strerror}); free some space or name another place")
    return BadInputError(f"cannot write {path} ({e.strerror or e}); name another place")
