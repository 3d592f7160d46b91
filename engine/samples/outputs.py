"""What an output keeps of the set that it was made from, and the writer of each kind of output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError

from .base import SampleSet
from .naming import LOSSY, LOSSY_TEXT, image_names, png_names, suffix_of, written_names
from .npz import NpzSamples, write_images, write_npz

#: Kinds of output that hold image files.
_FILES = ("folder", "zip", "tar", "parquet")


def check_kept(out: Path, kind: str, samples: SampleSet, *, lossy: bool) -> None:
    """Check that an output keeps labels, and pixels unless `lossy`.

    Raises:
        BadInputError: the output has no room for the labels, or `lossy` changes nothing.
    """
    if kind == "npy" and samples.labels is not None:
        raise BadInputError(
            f"output {out} has no room for the labels of {samples.path}; write -o {out.with_suffix('.npz')}, or read the set "
            "without labels: --labels-key none"
        )
    if kind == "tar" and not isinstance(samples, NpzSamples):
        _check_companions(out, samples, lossy=lossy)
    if lossy and not (kind in _FILES and _jpegs(samples)):
        raise BadInputError(
            f"--lossy keeps JPEGs as JPEGs, but {out} "
            + (f"would have none: {samples.path} has none" if kind in _FILES else "holds no image files")
            + "; leave it out"
        )


def _check_companions(out: Path, samples: SampleSet, *, lossy: bool) -> None:
    """Check that no image of a shard gets the name of another file in it."""
    from .shards import ShardSamples

    if isinstance(samples, ShardSamples):
        own = set(samples.names)
        for name, new in zip(samples.names, written_names(samples, lossy=lossy) or (), strict=True):
            if new not in own and new in samples.archive.sizes:
                raise BadInputError(
                    f"output {out} would hold {new} twice, for {name} and as the source has it; write another kind of file, such "
                    f"as -o {out.with_suffix('.parquet')}"
                )


def written_as(out: Path, kind: str, samples: SampleSet, *, lossy: bool) -> str | None:
    """What happens to the source's image files, for the user; None if their pixels and names are kept."""
    if kind not in _FILES:
        return None
    if lossy:
        return f"{_counted(len(_jpegs(samples)))} written as {LOSSY_TEXT}, which changes pixels"
    others = [name for name in image_names(samples) or () if suffix_of(name) != ".png"]
    if not others:
        return None
    kinds = ", ".join(sorted({suffix_of(name) for name in others}))
    jpeg = "; --lossy keeps JPEGs" if _jpegs(samples) else ""
    return f"{_counted(len(others))} written to {out} as PNG in place of {kinds} (first: {others[0]}){jpeg}"


def _counted(count: int) -> str:
    return f"{count:,} image{' is' if count == 1 else 's are'}"


def _jpegs(samples: SampleSet) -> list[str]:
    return [name for name in image_names(samples) or () if suffix_of(name) in LOSSY]


def write_as(
    kind: str,
    aside: Path,
    shape: tuple[int, int, int, int],
    batches: Iterator[np.ndarray[Any, Any]],
    labels: np.ndarray[Any, Any] | None,
    source: SampleSet | None,
    *,
    lossy: bool,
) -> None:
    """Write a set to `aside` as a kind of output; see `jboost.engine.samples.files.write_samples`."""
    if kind == "npz":
        with aside.open("wb") as f:
            write_npz(f, shape, batches, labels=labels, source=source if isinstance(source, NpzSamples) else None)
    elif kind == "npy":
        with aside.open("wb") as f:
            write_images(f, shape, batches)
    elif kind == "pt":
        from .tensors import TensorSamples, write_tensors

        own = source if isinstance(source, TensorSamples) else None
        write_tensors(aside, shape, batches, labels=labels, source=own)
    elif kind == "parquet":
        _write_parquet(aside, shape[0], batches, labels, source, lossy=lossy)
    elif kind == "tar" and _as_shard(source):
        _write_shard(aside, shape[0], batches, labels, source, lossy=lossy)
    else:
        from .png import write_pngs

        write_pngs(aside, shape[0], batches, kind=kind, labels=labels, source=source, lossy=lossy)


def _write_parquet(
    aside: Path,
    count: int,
    batches: Iterator[np.ndarray[Any, Any]],
    labels: np.ndarray[Any, Any] | None,
    source: SampleSet | None,
    *,
    lossy: bool,
) -> None:
    from .parquet import ParquetSamples
    from .parquet_write import write_parquet

    names = written_names(source, lossy=lossy) or png_names(count)
    with aside.open("wb") as f:
        own = source if isinstance(source, ParquetSamples) else None
        write_parquet(f, batches, names, labels=labels, source=own)


def _as_shard(source: SampleSet | None) -> bool:
    """Whether a tar is written as a shard: where the source is no archive or folder of images."""
    from .images import ImageSamples

    return not isinstance(source, ImageSamples)


def _write_shard(
    aside: Path,
    count: int,
    batches: Iterator[np.ndarray[Any, Any]],
    labels: np.ndarray[Any, Any] | None,
    source: SampleSet | None,
    *,
    lossy: bool,
) -> None:
    from .shards import ShardSamples, shard_names, write_shard

    own = source if isinstance(source, ShardSamples) else None
    names = shard_names(written_names(source, lossy=lossy), count)
    with aside.open("wb") as f:
        write_shard(f, batches, names, lossy=lossy, labels=labels, source=own)
