"""Inputs of a report: the run's file and the sample sets that it names, located and checked."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError, printable
from jboost.engine.results.run_file import RunFile, read_run
from jboost.engine.samples import ReadOptions, SampleSet, open_samples
from jboost.engine.samples.files import reading_of
from jboost.engine.samples.options import AS_IT_IS
from jboost.engine.samples.patterns import expand, is_pattern, names_of, shard_files

Images = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class ReportInputs:
    """A run and its sample sets.

    Attributes:
        run: the run.
        samples, boosted: the run's input and output, each with one image per record of the run.
        reading: how the samples were read.
    """

    run: RunFile
    samples: SampleSet
    boosted: SampleSet
    reading: ReadOptions = AS_IT_IS

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]] | None:
        """Class of each image [N], from the samples; None without labels."""
        return self.samples.labels

    def class_name(self, label: int) -> str:
        """Return a class's name: the folder's, else the bundle's, else the number."""
        names = self.samples.label_names or self.run.class_names or ()
        return names[label] if label < len(names) else str(label)

    def read(self, indices: np.ndarray[Any, Any]) -> tuple[Images, Images]:
        """Read images before and after, uint8 [n, H, W, C], at ascending `indices`.

        Raises:
            BadInputError: an image's distance differs from the run's record, so the sets belong to another run.
        """
        before, after = self.samples.read(indices), self.boosted.read(indices)
        difference = (after.astype(np.float64) - before) / 255
        moved = np.sqrt((difference**2).sum((1, 2, 3)))
        recorded = self.run.records["l2"][indices]
        off = ~(np.abs(moved - recorded) <= 1e-3 * (1 + moved))  # the record is in float32; NaN matches nothing
        if off.any():
            i = int(np.argmax(off))
            raise BadInputError(
                f"{shown(self.samples.path)} and {shown(self.boosted.path)} are not the sets of {self.run.path}: image "
                f"{indices[i]} differs by {moved[i]:.3f}, but the run moved it by {recorded[i]:.3f}; name the right sets with "
                "--samples and --boosted, or boost again with --run"
            )
        return before, after


def open_inputs(
    path: Path, *, samples: Path | None = None, boosted: Path | None = None, reading: ReadOptions = AS_IT_IS
) -> ReportInputs:
    """Open a run and its sample sets.

    Args:
        path: file written by `jboost boost --run`.
        samples, boosted: places of the sets, if they moved since the run or lie outside the folder of its file.
        reading: how to read them, where that differs from what the run's file says.

    Raises:
        BadInputError: the file is not a run, or a set is missing, cannot be read, or belongs to another run; or the file
            names a set outside its own folder.
    """
    run = read_run(path)
    if run.summary["lossy"]:
        raise BadInputError(
            f"{path} is of a run whose output holds other pixels than were measured ({printable(run.summary['lossy'])}); boost "
            "again without --lossy"
        )
    given = {key: value for key, value in vars(reading).items() if value != getattr(AS_IT_IS, key)}
    reading = replace(run.reading, **given)
    samples = samples or _own(run, run.samples, "--samples")
    boosted = boosted or _own(run, run.boosted, "--boosted")
    after = _open(run, boosted, "--boosted", reading_of(boosted, samples, reading))
    # The run gave the images the model's channels.
    reading = replace(reading, channels=after.shape[3])
    before = _open(run, samples, "--samples", reading)
    if before.shape[1:] != after.shape[1:]:
        raise BadInputError(
            f"{shown(before.path)} has images {list(before.shape[1:])} and {shown(after.path)} {list(after.shape[1:])}, but a run "
            "does not change their size; name the right sets with --samples and --boosted, or the --resize that the run had"
        )
    return ReportInputs(run, before, after, reading)


def _own(run: RunFile, path: Path, option: str) -> Path:
    """A set that the run's file names, which must lie in the file's folder or below.

    A file from a stranger could name any set of this machine, and the page would carry its images to whoever gets it.
    """
    if not _all_below(path, run.path.resolve().parent):
        raise BadInputError(
            f"{run.path} names a set outside its own folder, {shown(path)}; if it is the set of this run, say so with "
            f"{option} {shlex.quote(shown(path))}"
        )
    return path


def _all_below(path: Path, folder: Path) -> bool:
    """Whether a set lies below a folder: each of its files, if it is a pattern or a folder of shards."""
    if not is_pattern(path):
        return all(_below(file, folder) for file in (path, *shard_files(path)))
    return all(_below(Path(name), folder) for name in names_of(path)) and all(_below(f, folder) for f in expand(path))


def _below(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(folder)) in Path(os.path.realpath(path)).parents


def _open(run: RunFile, path: Path, option: str, reading: ReadOptions = AS_IT_IS) -> SampleSet:
    if not path.exists() and not is_pattern(path):
        raise BadInputError(
            f"{shown(path)}, which {run.path} names, is not there; give its new place with {option} FILE"
        )
    images = open_samples(path, reading)
    if images.shape[0] != len(run.records):
        raise BadInputError(
            f"{shown(path)} holds {images.shape[0]:,} images, but the run {run.path} has {len(run.records):,} records; name "
            f"the set of that run with {option} FILE"
        )
    return images


def find_snapshots(run: RunFile, boosted: Path, reading: ReadOptions = AS_IT_IS) -> tuple[dict[int, Path], list[str]]:
    """Return the snapshots between the first and the last step, by step, and a remark on each unusable one.

    Args:
        run: the run.
        boosted: its output; snapshots lie beside it, or below the folder of the run's file.
        reading: how its samples were read.
    """
    usable: dict[int, Path] = {}
    remarks = []
    for step, path in run.snapshots.items():
        if not 0 < step < run.summary["steps"]:
            continue  # these are the samples and the boosted set
        if not any(_below(path, folder) for folder in (run.path.resolve().parent, boosted.resolve().parent)):
            remarks.append(f"The snapshot after {step} steps is not measured: the run names a file in another folder.")
            continue
        try:
            _open(run, path, "", reading_of(path, run.samples, reading))
            usable[step] = path
        except BadInputError:
            remarks.append(
                f"The snapshot after {step} steps, {path.name}, is not measured: it is missing, damaged, or another run's."
            )
    return usable, remarks


def shown(path: Path) -> str:
    """Return a path without the ``..`` and ``.`` parts that joining left in it."""
    return os.path.normpath(path)
