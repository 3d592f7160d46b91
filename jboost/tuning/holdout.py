"""Split a reference: one part to tune on, the other to report on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.samples import ReadOptions, SampleSet, check_output, write_samples
from jboost.evaluation.sets import open_source

from .subset import Numpy

#: Files in the tuning's folder.
TUNED_ON, HELD_OUT = "reference.npz", "holdout.npz"
_AT_A_TIME = 256


def split(reference: Path, share: float, folder: Path, reading: ReadOptions) -> tuple[Path, Path]:
    """Write a reference's two parts into `folder`, unless an earlier run did: the one to tune on, and the one held out.

    The split is random and always the same, so classes that stand together are in both parts.

    Args:
        reference: images.
        share: the share to hold out, between 0 and 1.
        folder: exists.
        reading: how to read the images.

    Raises:
        BadInputError: the reference has no images, or a part would have fewer than two; or a part cannot be written.
    """
    source = open_source(reference, reading, reference=True)
    if source.images is None:
        raise BadInputError(
            f"--holdout splits images, and {reference} holds {source.kind}; give images, or leave it out"
        )
    images, count = source.images, source.images.shape[0]
    held = round(share * count)
    if held < 2 or count - held < 2:
        raise BadInputError(f"--holdout {share:g} of {count:,} images leaves fewer than 2 in a part; give more images")
    order = np.random.default_rng(0).permutation(count)
    parts = {folder / HELD_OUT: np.sort(order[:held]), folder / TUNED_ON: np.sort(order[held:])}
    for path, positions in parts.items():
        if not path.exists():
            _write(path, images, positions)
    return folder / TUNED_ON, folder / HELD_OUT


def _write(path: Path, images: SampleSet, positions: Numpy) -> None:
    shape = (len(positions), *images.shape[1:])
    check_output(path, images, bytes_needed=int(np.prod(shape)))

    def batches() -> Iterator[Numpy]:
        for first in range(0, len(positions), _AT_A_TIME):
            yield images.read(positions[first : first + _AT_A_TIME])

    write_samples(path, shape, batches(), labels=None if images.labels is None else images.labels[positions])
