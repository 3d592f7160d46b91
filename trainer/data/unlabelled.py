"""Images of no class, which take the labels of the real images that they are paired with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from jboost.engine.samples import ReadOptions, SampleSet, open_samples
from jboost.engine.samples.fitted import Fitted
from jboost.engine.samples.keys import NONE, MissingKeyError
from jboost.engine.samples.npz import NpzSamples

from .arrays import ArrayData, open_sample_npz
from .base import ImageData
from .folder import SampleData

#: Where such images' labels come from.
SOURCE = "the paired real images"


def open_unlabelled(path: Path, reading: ReadOptions) -> ImageData:
    """Open a set of any kind that `jboost.engine.samples.open_samples` reads, without reading its labels.

    Args:
        path: a file, a folder, or a pattern of files.
        reading: how to read it. Image files are resized as it says; the images of arrays are left as they are.

    Returns:
        The images. Every label is 0 and means nothing.

    Raises:
        BadInputError: the set cannot be used.
    """
    without = replace(reading, labels_key=NONE, class_folders="none")
    try:
        samples = open_samples(path, without)
    except MissingKeyError:  # image files have no labels to leave out
        without = replace(without, labels_key=None)
        samples = open_samples(path, without)
    inner: SampleSet = samples.samples if isinstance(samples, Fitted) else samples
    if isinstance(inner, NpzSamples):  # read by memory maps
        images, _ = open_sample_npz(path, replace(without, resize=None, channels=None))
        return ArrayData(path, [images], np.zeros(len(images), np.int64), label_source=SOURCE)
    return SampleData(samples, label_source=SOURCE)
