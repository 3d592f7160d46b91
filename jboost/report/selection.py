"""Select the images that a report draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from jboost.grid import pick_evenly

Indices = np.ndarray[Any, np.dtype[np.int64]]


def over_classes(labels: Indices | None, count: int, most: int) -> Indices:
    """Select at most `most` of `count` images: the first images of each class, as evenly as possible.

    With more than `most` classes, select from evenly spread classes. Without labels, select evenly spread images.
    """
    if labels is None:
        return pick_evenly(None, count, most)
    classes = np.unique(labels)
    classes = classes[pick_evenly(None, len(classes), most)]
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])
    rank = np.arange(count) - starts  # an image's rank within its class
    wanted = np.isin(labels[by_class], classes)
    by_class, rank = by_class[wanted], rank[wanted]
    chosen = by_class[np.argsort(rank, kind="stable")[:most]]
    return chosen[np.lexsort((chosen, labels[chosen]))]


def by_change(l2: np.ndarray[Any, Any], most: int) -> tuple[Indices, Indices]:
    """Select at most `most` images that moved furthest and as many that moved least, by `l2` [N]; skip unmoved ones."""
    moved = np.flatnonzero(l2 > 0)
    order = moved[np.argsort(l2[moved], kind="stable")]
    return order[::-1][:most], order[:most]
