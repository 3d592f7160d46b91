"""Checks of the data before training starts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from jboost.engine.errors import BadInputError

from .base import ImageData
from .generated import MixedData, check_label_range


def check_pair(
    real: ImageData,
    generated: MixedData,
    *,
    num_classes: int,
    missing_classes: bool = False,
    own_size: bool = False,
    labelled: bool = True,
) -> list[str]:
    """Check that a real and a generated set fit each other and the model.

    Args:
        real, generated: the sets.
        num_classes: the model's number of classes.
        missing_classes: allow classes with images of one set alone.
        own_size: allow generated images of another size than the real ones.
        labelled: whether the generated images have labels of their own.

    Returns:
        Warnings, one sentence each: the sets' own notes, and classes without images.

    Raises:
        BadInputError: sizes, channels or labels do not fit, or a class has images of one set alone; the message names the
            path.
    """
    check_label_range(real, num_classes)
    notes = [*real.notes, *generated.notes, *_missing(real, num_classes, "real")]
    for source in generated.sources:
        check_label_range(source, num_classes)
        (_, h, w, c), (_, real_h, real_w, real_c) = source.shape, real.shape
        if (h, w) != (real_h, real_w) and not own_size:
            raise BadInputError(
                f"{source.path} has images of {w}x{h}, {real.path} of {real_w}x{real_h}; "
                "resize the real images to the generator's size with --resolution, or allow both with --generated-size own"
            )
        if c != real_c:
            raise BadInputError(
                f"{source.path} has images of {c} channel(s), {real.path} of {real_c}; convert both with --channels 1 or 3"
            )
    if not labelled:
        return notes
    if not missing_classes:
        _check_same_classes(real, generated)
    return [*notes, *_missing(generated, num_classes, "generated")]


def _check_same_classes(real: ImageData, generated: MixedData) -> None:
    """Check that each class has real and generated images, or neither."""
    one, other = set(np.unique(real.labels).tolist()), set(np.unique(generated.labels).tolist())
    lacking = [("generated", generated.path, sorted(one - other)), ("real", real.path, sorted(other - one))]
    said = [
        f"{path} has no {kind} images of {'the classes' if len(found) > 1 else 'class'} {_named(found, real.class_names)}"
        for kind, path, found in lacking
        if found
    ]
    if said:
        raise BadInputError(
            f"{', and '.join(said)}; each class needs both (check that the labels are right), or allow it with "
            "--missing-classes"
        )


def _named(classes: list[int], names: tuple[str, ...] | None) -> str:
    shown = [str(c) if names is None or c >= len(names) else f"{c} ({names[c]})" for c in classes[:5]]
    return ", ".join(shown) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")


def _missing(data: ImageData, num_classes: int, kind: str) -> list[str]:
    """A warning about classes without images, if there are any."""
    empty = np.flatnonzero(np.bincount(data.labels, minlength=num_classes)[:num_classes] == 0)
    if not len(empty):
        return []
    some = ", ".join(map(str, empty[:5])) + (", ..." if len(empty) > 5 else "")
    return [f"{data.path}: {len(empty)} of {num_classes} classes have no {kind} images ({some})"]


def decode_all(data: ImageData, batch_size: int = 64) -> None:
    """Read every image once, to find a broken one before training. This takes as long as reading an epoch.

    Raises:
        BadInputError: an image is broken; the message names the first such file.
    """

    def read(start: int) -> None:
        data.read(np.arange(start, min(start + batch_size, data.shape[0]), dtype=np.int64))

    with ThreadPoolExecutor(4) as threads:
        try:
            for _ in threads.map(read, range(0, data.shape[0], batch_size)):
                pass
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
