"""The engine's sample sets with labels: folders and archives of image files, and whatever else `open_samples` reads."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.samples import SampleSet

from .base import Indices, Pixels


def some_of(names: Sequence[str]) -> str:
    """The first five names and the number of others, for a message."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class SampleData:
    """A sample set with labels, as an `ImageData`.

    Args:
        samples: the set.
        label_source: None: the set's own labels. Otherwise every label is 0, and this is where they will come from.

    Raises:
        BadInputError: it has no labels.
    """

    def __init__(self, samples: SampleSet, *, label_source: str | None = None):
        from jboost.engine.samples.images import ImageSamples

        if samples.labels is None and label_source is None:
            files = isinstance(samples, ImageSamples)
            raise BadInputError(
                f"{samples.path} has no labels ({samples.label_source.removeprefix('none: ')}); "
                + (
                    "put its images into two or more class folders without a dataset.json, or list their classes in dataset.json"
                    if files
                    else "save them too"
                )
            )
        self.path, self.shape = samples.path, samples.shape
        self.class_names: tuple[str, ...] | None = None
        if samples.labels is None or label_source is not None:
            self.labels, self.label_source = np.zeros(samples.shape[0], np.int64), label_source or ""
        else:
            self.labels, self.label_source = samples.labels, samples.label_source
            self.class_names = samples.label_names
        self.notes: tuple[str, ...] = tuple(f"{self.path}: {note}" for note in samples.notes)
        # Other kinds of sets have one read position.
        self._one_at_a_time = None if isinstance(samples, ImageSamples) else Lock()
        if isinstance(samples, ImageSamples) and samples.empty and self.class_names is not None:
            names = self.class_names
            self.class_names = tuple(sorted({*names, *samples.empty}))
            self.labels = np.array([self.class_names.index(name) for name in names], np.int64)[self.labels]
            self.notes += (f"{self.path}: no images in the class folders {some_of(samples.empty)}",)
        self._samples = samples

    def read(self, indices: Indices) -> Pixels:
        """Images uint8 [n, H, W, C] at `indices` [n]."""
        if self._one_at_a_time is None:
            return self._samples.read(indices)
        with self._one_at_a_time:
            return self._samples.read(indices)

    def original(self, index: int) -> Pixels:
        """One image at its own size, uint8 [h, w, C].

        Raises:
            BadInputError: the image is damaged, or the set is of a kind that gives images at one size only.
        """
        from jboost.engine.samples.images import ImageSamples

        if not isinstance(self._samples, ImageSamples):
            raise BadInputError(
                f"{self.path} gives images at one size only, and --real-crop crops them at their own; unpack it into class "
                "folders, or leave out --real-crop"
            )
        return self._samples.original(index)
