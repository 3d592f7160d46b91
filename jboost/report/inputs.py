"""What a report is made of: the run's file, and the sets that it names, found and checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.results.run_file import RunFile, read_run
from jboost.engine.samples import SampleSet, open_samples

Images = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Material:
    """A run and its sets.

    Attributes:
        run: the run.
        samples, boosted: its input and output, of as many images as the run has records.
    """

    run: RunFile
    samples: SampleSet
    boosted: SampleSet

    @property
    def labels(self) -> np.ndarray[Any, np.dtype[np.int64]] | None:
        """Each image's class [N], as the samples have it."""
        return self.samples.labels

    def class_name(self, label: int) -> str:
        """A class in words: the folder's name, the bundle's name, or its number."""
        names = self.samples.label_names or self.run.class_names or ()
        return names[label] if label < len(names) else str(label)

    def read(self, indices: np.ndarray[Any, Any]) -> tuple[Images, Images]:
        """Images before and after, uint8 [n, H, W, C], at ascending `indices`.

        Raises:
            BadInputError: they do not lie as far apart as the run's records say, so that they are not that run's.
        """
        before, after = self.samples.read(indices), self.boosted.read(indices)
        difference = (after.astype(np.float64) - before) / 255
        moved = np.sqrt((difference**2).sum((1, 2, 3)))
        recorded = self.run.records["l2"][indices]
        off = np.abs(moved - recorded) > 1e-3 * (1 + moved)  # the record is in float32
        if off.any():
            i = int(np.argmax(off))
            raise BadInputError(
                f"{shown(self.samples.path)} and {shown(self.boosted.path)} are not those of {self.run.path}: image {indices[i]} "
                f"differs by {moved[i]:.3f}, the run moved it by {recorded[i]:.3f}; name the right ones with --samples and "
                "--boosted, or boost again with --run"
            )
        return before, after


def open_material(path: Path, *, samples: Path | None = None, boosted: Path | None = None) -> Material:
    """Open a run and its sets.

    Args:
        path: what `jboost boost --run` kept.
        samples, boosted: where the sets are now, if not where they were.

    Raises:
        BadInputError: no run; a set is missing or cannot be read, or it is not the run's.
    """
    run = read_run(path)
    before = _open(run, samples or run.samples, "--samples")
    after = _open(run, boosted or run.boosted, "--boosted")
    if before.shape[1:] != after.shape[1:]:
        raise BadInputError(
            f"{shown(before.path)} has images {list(before.shape[1:])} and {shown(after.path)} {list(after.shape[1:])}; a run does "
            "not change their size: name the right sets with --samples and --boosted"
        )
    return Material(run, before, after)


def _open(run: RunFile, path: Path, option: str) -> SampleSet:
    if not path.exists():
        raise BadInputError(f"{shown(path)} is not there, as {run.path} has it; say where it is now with {option} FILE")
    images = open_samples(path)
    if images.shape[0] != len(run.records):
        raise BadInputError(
            f"{shown(path)} holds {images.shape[0]:,} images, the run {run.path} has records of {len(run.records):,}; name "
            f"the set of that run with {option} FILE"
        )
    return images


def find_snapshots(run: RunFile) -> tuple[dict[int, Path], list[str]]:
    """The snapshots between the first and the last step, by step, and a remark on each that cannot be used."""
    usable: dict[int, Path] = {}
    remarks = []
    for step, path in run.snapshots.items():
        if not 0 < step < run.summary["steps"]:
            continue  # the samples or the boosted set themselves
        try:
            _open(run, path, "")
            usable[step] = path
        except BadInputError:
            remarks.append(
                f"The snapshot after {step} steps, {path.name}, is not measured: it is missing, damaged, or another run's."
            )
    return usable, remarks


def shown(path: Path) -> str:
    """A path without the detours that joining left in it."""
    return os.path.normpath(path)
