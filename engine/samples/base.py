"""The interface of all kinds of sample sets, and the checks they share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jboost.engine.errors import BadInputError

from .remedies import image_fault, label_fault


class SampleSet(Protocol):
    """Images uint8 [N, H, W, C], read as needed, and their labels, if any.

    Attributes:
        path: the file or folder.
        kind: ``"npz"``, ``"zip"``, ``"tar"`` or ``"folder"``.
        shape: (N, H, W, C).
        labels: int64 [N], or None.
        label_names: the folder names, sorted, if the images are in folders whose names are not numbers; `labels` index
            into them. Otherwise None.
        label_source: where the labels come from, e.g. ``"arr_1"``; without labels, ``"none: "`` and why.
        notes: what was converted or left out while the set was read, one sentence each.
    """

    path: Path
    kind: str
    shape: tuple[int, int, int, int]
    labels: np.ndarray[Any, np.dtype[np.int64]] | None
    label_names: tuple[str, ...] | None
    label_source: str
    notes: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """A hash that changes when the set's contents change; a resumed run compares it."""
        ...

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at ascending `indices`.

        Raises:
            BadInputError: the file is damaged.
        """
        ...


def check_images(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], part: np.ndarray[Any, Any] | None = None
) -> None:
    """Check that an array is a set of images: uint8 [N, H, W, C] with N > 0.

    Args:
        name: the array, for the message; its last word is its variable.
        shape, dtype: the array's.
        part: some of its values, which tell how to convert them; None if they are unknown.

    Raises:
        BadInputError: it is not; the message says what to save instead.
    """
    if fault := image_fault(name, shape, dtype, part):
        raise BadInputError(fault)


def check_labels(
    name: str, labels: np.ndarray[Any, Any], count: int, *, shape: tuple[int, ...] | None = None
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Check labels in their own dtype; returns the same numbers as int64 [N].

    Args:
        name: the array, for the message; its last word is its variable.
        labels: the labels, or the first rows of an array that has another shape than [N] or another dtype than whole
            numbers.
        count: number of images.
        shape: the whole array's; None: that of `labels`.

    Raises:
        BadInputError: the shape, length or dtype is wrong, a value is negative, or int64 cannot hold it. The message says
            what to save instead.
    """
    if fault := label_fault(name, shape or labels.shape, labels.dtype, labels, count):
        raise BadInputError(fault)
    if int(labels.min()) < 0:
        raise BadInputError(
            f"{name} has negative labels (minimum {int(labels.min())}); classes count from 0, so save each image's class, or leave "
            "the labels out"
        )
    if int(labels.max()) > np.iinfo(np.int64).max:
        raise BadInputError(
            f"{name} has the label {int(labels.max())} ({labels.dtype}), which int64 cannot hold, as of a negative number stored "
            "without its sign; classes count from 0, so save each image's class, or leave the labels out"
        )
    return labels.astype(np.int64)


def labels_of_numbers(name: str, numbers: Sequence[int]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Class numbers of any size as labels, int64 [N].

    Raises:
        BadInputError: a number is negative, or int64 cannot hold it.
    """
    limit = np.iinfo(np.int64).max
    if bad := next((n for n in numbers if not 0 <= n <= limit), None):
        raise BadInputError(f"{name}: {_short(bad)} is not a class number; classes count from 0, at most {limit}")
    return np.array(numbers, np.int64)


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**30 else "a number of more than 30 digits"


def check_against_model(
    labels: np.ndarray[Any, Any] | None, shape: tuple[int, ...], *, num_classes: int, in_channels: int
) -> None:
    """Check that a set fits a model.

    Raises:
        BadInputError: a label exceeds the model's classes, or the number of channels differs.
    """
    if shape[3] != in_channels:
        raise BadInputError(
            f"the images have {shape[3]} channel(s), the model takes {in_channels}; "
            + (
                "repeat the grey channel: np.repeat(images, 3, axis=3)"
                if shape[3] == 1
                else "use a model with that many channels"
            )
        )
    if labels is not None and int(labels.max()) >= num_classes:
        bad = int(np.argmax(labels >= num_classes))
        raise BadInputError(
            f"label {int(labels[bad])} of image {bad} is out of range: the model has {num_classes} classes, 0 to "
            f"{num_classes - 1}"
            + ("; if yours count from 1, save labels - 1" if labels.min() >= 1 and labels.max() == num_classes else "")
        )


def check_fit(
    labels: np.ndarray[Any, Any] | None,
    shape: tuple[int, ...],
    *,
    num_classes: int,
    in_channels: int,
    resolutions: Sequence[int],
) -> None:
    """Check that a set fits a model and has one of the image sizes that the bundle was exported for.

    Raises:
        BadInputError: as `check_against_model`, or the image size is another.
    """
    check_against_model(labels, shape, num_classes=num_classes, in_channels=in_channels)
    if shape[1] != shape[2] or shape[1] not in resolutions:
        sizes = ", ".join(f"{r}x{r}" for r in resolutions)
        # Bundles are for square images, so no export helps against others.
        export = f"export it again with --resolution {shape[1]}, or " if shape[1] == shape[2] else ""
        raise BadInputError(
            f"the images are {shape[1]}x{shape[2]}, the bundle was exported and verified for {sizes}; {export}resize the images: "
            f"--resize {resolutions[0]}"
        )


def labels_of(
    samples: SampleSet, *, class_names: Sequence[str] | None, num_classes: int
) -> np.ndarray[Any, np.dtype[np.int64]] | None:
    """A set's labels, with folder names resolved to the model's classes.

    Args:
        samples: the set.
        class_names: the model's class names, if known.
        num_classes: the model's number of classes.

    Raises:
        BadInputError: a name is not one of the model's classes, or the model has it at another number and not all others.
    """
    names = samples.label_names
    if names is None or samples.labels is None:
        return samples.labels
    if class_names is not None and set(names) <= set(class_names):
        return np.array([class_names.index(names[i]) for i in samples.labels], np.int64)
    moved = [
        n for i, n in enumerate(names) if class_names is not None and n in class_names and class_names.index(n) != i
    ]
    if len(names) == num_classes and not moved:
        return samples.labels  # as in torchvision's ImageFolder: classes in sorted order
    if samples.kind == "parquet":
        raise BadInputError(
            f"{samples.path} names the classes {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}, which are not the "
            f"model's {num_classes} classes; give the model's class numbers in a column of integers and name it with --labels-key, "
            "or read the set without labels: --labels-key none"
        )
    raise BadInputError(
        f"{samples.path} has the folders {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}, which are not the "
        f"model's {num_classes} classes; name each folder after its class number, from 0, or say that they are no classes: "
        "--class-folders none"
    )


def runs(indices: np.ndarray[Any, Any]) -> list[tuple[int, int]]:
    """Ascending `indices` as half-open ranges, so neighbours are read together."""
    if len(indices) == 0:
        return []
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(indices, breaks)]
