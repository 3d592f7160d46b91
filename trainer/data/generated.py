"""Generated images: one or more sample sets, mixed with weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.samples import ReadOptions, open_samples
from jboost.engine.samples.npz import NpzSamples
from jboost.engine.samples.options import AS_IT_IS

from .arrays import ArrayData, open_sample_npz
from .base import ImageData, Indices, Pixels, hold_out, naming
from .fit import check_wish, fitted
from .folder import SampleData, some_of
from .order import MixedOrder, whole_shares
from .unlabelled import open_unlabelled


class MixedData:
    """Several sets as one: indices count through the sets in order.

    Args:
        sources: the sets, of one image size.
        weights: positive; how often each set is drawn, relative to the others.

    Attributes:
        sources: the sets.
        weights: as given.
        path, class_names, label_source: those of the first set.
        shape, labels, notes: those of all sets together.

    Raises:
        BadInputError: the sets differ in size or channels, or a weight is not positive; the message names the path.
    """

    def __init__(self, sources: Sequence[ImageData], weights: Sequence[float]):
        first = sources[0]
        for source, weight in zip(sources, weights, strict=True):
            if source.shape[1:] != first.shape[1:]:
                raise BadInputError(
                    f"{source.path} has images of {_size(source)}, {first.path} of {_size(first)}; mix sets of one size only"
                )
            if not (math.isfinite(weight) and weight > 0):
                raise BadInputError(
                    f"{source.path} has the weight {weight}; weights must be positive: leave the set out instead"
                )
        self.sources, self.weights = tuple(sources), tuple(weights)
        self.path, self.class_names, self.label_source = first.path, first.class_names, first.label_source
        sizes = [source.shape[0] for source in sources]
        self._starts = np.cumsum([0, *sizes])
        self.shape: tuple[int, int, int, int] = (sum(sizes), *first.shape[1:])
        self.labels: Indices = np.concatenate([source.labels for source in sources])
        self.notes: tuple[str, ...] = tuple(note for source in sources for note in source.notes)

    def order(self, seed: int) -> MixedOrder:
        """The order in which the sets are mixed."""
        return MixedOrder([source.shape[0] for source in self.sources], self.weights, seed)

    def read(self, indices: Indices) -> Pixels:
        """Images uint8 [n, H, W, C] at `indices` [n]."""
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        owners = np.searchsorted(self._starts, indices, side="right") - 1
        for k in np.unique(owners):
            mine = owners == k
            out[mine] = self.sources[k].read(indices[mine] - self._starts[k])
        return out

    def original(self, index: int) -> Pixels:
        """One image at its own size, uint8 [h, w, C]."""
        k = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.sources[k].original(index - int(self._starts[k]))

    def hold_out(self, count: int, seed: int) -> tuple[MixedData, MixedData]:
        """Split at random: all but `count` images for training, and `count` images for validation.

        Each set gives validation images in proportion to its weight.

        Raises:
            BadInputError: a set has too few images.
        """
        shares = whole_shares(self.weights, count)
        parts = [hold_out(source, int(n), seed) for source, n in zip(self.sources, shares, strict=True)]
        train, held_out = zip(*parts, strict=True)
        return MixedData(train, self.weights), MixedData(held_out, self.weights)


def _size(data: ImageData) -> str:
    _, h, w, c = data.shape
    return f"{w}x{h} with {c} channel{'s' if c > 1 else ''}"


def open_generated(
    paths: Sequence[Path],
    weights: Sequence[float] | None,
    *,
    num_classes: int,
    resolution: int | None,
    channels: int | None,
    class_names: tuple[str, ...] | None = None,
    reading: ReadOptions = AS_IT_IS,
    labelled: bool = True,
) -> MixedData:
    """Open sample sets with labels, of any kind that `jboost.engine.samples.open_samples` reads.

    Args:
        paths: at least one.
        weights: positive, one for each path; None draws each set in proportion to its size.
        num_classes: number of classes; labels must lie below it.
        resolution: the size that the images must have. Generated images are never resized: resampling would mark them
            as generated, and boosting works on them as they are. Images without labels come from no generator, so they
            are resized as real ones are.
        channels: 1 or 3, to convert to; None: keep the images as they are, all must agree.
        class_names: the real set's class names, for images in folders that are named after classes.
        reading: how to read image files; its resolution and channels are those above.
        labelled: whether the sets have labels, see `open_unlabelled`.

    Raises:
        BadInputError: a set cannot be used; the message names its path.
        FailureError: the cache cannot be written.
    """
    if not paths:
        raise BadInputError("no generated images are given; give one or more samples.npz")
    if weights is not None and len(weights) != len(paths):
        raise BadInputError(
            f"{len(weights)} weights are given for {len(paths)} generated sets ({', '.join(map(str, paths))}); give one for each"
        )
    sources = []
    for path in paths:
        check_wish(path, None, channels)
        with naming(path):
            how = replace(
                reading,
                resize=None if labelled else resolution,
                channels=channels,
                luma=channels == 1,
                resize_flag=None,
                keys_are_flags=False,
            )
            if not labelled:
                sources.append(fitted(open_unlabelled(path, how), resolution, channels))
                continue
            data = _open_one(path, how, num_classes, class_names)
            check_label_range(data, num_classes)
            _, h, w, _ = data.shape
            if resolution is not None and (h, w) != (resolution, resolution):
                raise BadInputError(
                    f"{path} has images of {_size(data)}, but training runs at {resolution}x{resolution}; "
                    "give the generator's resolution with --resolution, or allow both sizes with --generated-size own"
                )
            sources.append(fitted(data, None, channels))
    return MixedData(sources, weights if weights is not None else [float(source.shape[0]) for source in sources])


def _open_one(path: Path, reading: ReadOptions, num_classes: int, class_names: tuple[str, ...] | None) -> ImageData:
    samples = open_samples(path, replace(reading, channels=None))
    if isinstance(samples, NpzSamples):
        images, labels = open_sample_npz(path, reading)
        if labels is None:
            raise BadInputError(
                f"{path} has no labels (arr_1), so the classes of its images are unknown; save them too: "
                "np.savez(path, images, labels)"
            )
        return ArrayData(path, [images], labels, label_source=samples.label_source)
    if reading.channels not in (None, samples.shape[3]):
        samples = open_samples(path, reading)
    data = SampleData(samples)
    if data.class_names is not None:
        if class_names is not None and set(data.class_names) <= set(class_names):
            data.labels = np.array([class_names.index(name) for name in data.class_names], np.int64)[data.labels]
            data.class_names = class_names
        elif class_names is not None or len(data.class_names) != num_classes:
            raise BadInputError(
                f"{path} has the classes {some_of(data.class_names)}, which are not the real set's classes; "
                + (
                    "save class numbers alone"
                    if samples.kind == "parquet"
                    else "name each folder after its class number"
                )
                + ", from 0"
            )
    return data


def check_label_range(data: ImageData, num_classes: int) -> None:
    """Check that every label lies below `num_classes`.

    Raises:
        BadInputError: a label is out of range; the message names the path and the first such image.
    """
    beyond = data.labels >= num_classes
    if beyond.any():
        i = int(np.argmax(beyond))
        raise BadInputError(
            f"{data.path}: label {int(data.labels[i])} of image {i} is out of range: there are {num_classes} classes, 0 to "
            f"{num_classes - 1}"
        )
