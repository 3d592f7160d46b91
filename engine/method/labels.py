"""Which classes a run climbs: the labels given, the model's predictions, or predictions without the set's bias.

``debiased`` is BIGROC's for generators without classes (arXiv 2108.03702, notebook CIFAR10/BIGRoC_Unconditional_boosting): a robust
classifier prefers some classes on generated images, so each class's logit is compared with its mean over generated images. BIGROC
takes the mean over 1,000 further images of the generator. Here it is over the set, so an image's class depends on its set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError, printable

Numpy = np.ndarray[Any, Any]

GIVEN, PREDICTED, DEBIASED = "given", "predicted", "debiased"
#: What a run does that asks for none of them.
DEFAULT = "given, else predicted"
#: For `check_not_debiased`.
OF_SHARDS = "boost all images as one npz, folder or tar, without --shard, --shards, --devices and --on"


def check_labels_choice(choice: str | None) -> None:
    """Check the value of ``--labels``; None: not given.

    Raises:
        BadInputError: it is none of the three.
    """
    if choice not in (None, GIVEN, PREDICTED, DEBIASED):
        raise BadInputError(f"--labels {printable(str(choice)[:60])}: give {GIVEN}, {PREDICTED} or {DEBIASED}")


def check_not_debiased(choice: str | None, remedy: str) -> None:
    """Refuse debiased labels where no set is at hand as a whole.

    Raises:
        BadInputError: they are asked for.
    """
    if choice == DEBIASED:
        raise BadInputError(
            f"--labels debiased needs the mean logit over the whole set: {remedy}, or take --labels predicted"
        )


def labels_used(choice: str | None, labelled: bool, name: object = "the set") -> str:
    """Which classes a set's images climb.

    Args:
        choice: what was asked for; None: the labels if there are any, else the predictions.
        labelled: whether the set has labels.
        name: what a message calls the set.

    Raises:
        BadInputError: the labels are asked for and there are none.
    """
    if choice == GIVEN and not labelled:
        raise BadInputError(f"{name} has no labels, but --labels given takes them; give --labels predicted or debiased")
    return choice or (GIVEN if labelled else PREDICTED)


def debiased_labels(passes: Callable[[], Iterable[Numpy]]) -> Numpy:
    """argmax over classes of f + 1 - mean f, the mean over all images.

    The sums are float64 and in the images' order; ties go to the lowest class. An image with a logit that is not finite counts for
    nothing in the mean; its own class is of no use, because such an image does not move.

    Args:
        passes: called twice, so that memory does not grow with the set; gives the same logits, float32 [n, C] for n images at a
            time, each time.

    Returns:
        int64 [N].
    """
    total: Numpy | None = None
    count = 0
    for logits in passes():
        finite = np.isfinite(logits).all(axis=1)
        # Image by image: numpy's own sum over rows has another order of additions for another number of rows.
        for row in logits[finite].astype(np.float64):
            total = row if total is None else total + row
        count += int(finite.sum())
    mean = 0.0 if total is None else total / count
    labels = [np.argmax(logits.astype(np.float64) + 1.0 - mean, axis=1) for logits in passes()]
    return np.concatenate(labels).astype(np.int64) if labels else np.zeros(0, np.int64)
