"""Opening a sample set of any kind, and writing one atomically."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.system.commands import make_folder
from jboost.engine.system.replacing import replacing, replacing_folder

from .base import SampleSet
from .npz import NpzSamples, write_npz

Batches = Iterator[np.ndarray[Any, Any]]


def open_samples(path: str | Path) -> SampleSet:
    """The sample set at `path`: an npz, or a folder or zip file of PNGs.

    Raises:
        BadInputError: `path` does not exist, or it is not a usable sample set.
    """
    path = Path(path)
    if not path.exists():
        raise BadInputError(f"{path} does not exist; give a samples.npz, or a folder or zip of PNGs")
    if path.is_dir() or path.suffix.lower() == ".zip":
        from .png import PngSamples  # imported here because it needs Pillow and npz files do not

        return PngSamples(path)
    with path.open("rb") as f:
        magic = f.read(6)
    if magic.startswith(b"\x93NUMPY"):
        raise BadInputError(
            f"{path} is a single array; save it as npz: np.savez('samples.npz', np.load({path.name!r}), labels)"
        )
    if not magic.startswith(b"PK"):
        raise BadInputError(f"{path} is not an npz file; save one with: np.savez('samples.npz', images, labels)")
    return NpzSamples(path)


def output_kind(path: Path) -> str:
    """The kind of output for a path's suffix: ``"npz"``, ``"zip"``, or ``"folder"`` if it has no suffix.

    Raises:
        BadInputError: the suffix is another.
    """
    kinds = {".npz": "npz", ".zip": "zip", "": "folder"}
    if path.suffix.lower() not in kinds:
        raise BadInputError(
            f"output {path} has the suffix {path.suffix!r}; use .npz, .zip (PNGs), or no suffix (a folder of PNGs)"
        )
    return kinds[path.suffix.lower()]


def default_output(samples: SampleSet) -> Path:
    """``samples.boosted.npz`` beside ``samples.npz``; likewise for folders and zip files."""
    suffix = "" if samples.kind == "folder" else samples.path.suffix
    stem = samples.path.name.removesuffix(samples.path.suffix) if suffix else samples.path.resolve().name
    # A folder's name must not gain a dot: the rest would count as a suffix.
    name = f"{stem}.boosted{suffix}" if suffix else f"{stem}_boosted"
    return samples.path.resolve().parent / name if samples.kind == "folder" else samples.path.with_name(name)


def snapshot_output(out: Path, step: int) -> Path:
    """The path of the snapshot after `step` steps of a run into `out`.

    For ``a.npz`` it is ``a.step5.npz``; for the folder ``a`` it is ``a_step5``.
    """
    return out.with_name(f"{out.stem}{'.' if out.suffix else '_'}step{step}{out.suffix}")


def check_output(out: Path, samples: SampleSet, *, bytes_needed: int) -> None:
    """Check that `out` can be written, before any work is done.

    Raises:
        BadInputError: `out` is the input or inside it, has an unknown suffix, is a folder in the way of a file or a
            folder with contents; or its parent does not exist, is not writable or has too little room.
    """
    kind = output_kind(out)
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
) -> None:
    """Write a sample set atomically.

    Args:
        out: the file or folder to write; its suffix gives the kind (see `output_kind`).
        shape: (N, H, W, C).
        batches: uint8 [n, H, W, C], N images in total.
        labels: int64 [N] or None.
        source: the set that the images were made from. If it has the same format (npz or PNGs), the output takes over
            its names and its other contents.

    Raises:
        BadInputError: the disk is full, or `out` is not writable.
    """
    kind = output_kind(out)
    try:
        with replacing_folder(out) if kind == "folder" else replacing(out) as aside:
            if kind == "npz":
                given = source if isinstance(source, NpzSamples) else None
                with aside.open("wb") as f:
                    write_npz(f, shape, batches, labels=labels, source=given)
            else:
                from .png import PngSamples, write_pngs

                write_pngs(
                    aside,
                    shape[0],
                    batches,
                    zipped=kind == "zip",
                    labels=labels,
                    source=source if isinstance(source, PngSamples) else None,
                )
    except OSError as e:
        raise cannot_write(out, e) from e


def cannot_write(path: Path, e: OSError) -> BadInputError:
    """The error for a write that the system refused."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return BadInputError(f"no room for {path} ({e.strerror}); free some space or name another place")
    return BadInputError(f"cannot write {path} ({e.strerror or e}); name another place")
