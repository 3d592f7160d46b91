"""What every command says of a set of images: where its labels come from, and what was done while it was read."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class _Labelled(Protocol):
    @property
    def labels(self) -> NDArray[np.int64] | None: ...
    @property
    def label_source(self) -> str: ...


def label_line(samples: _Labelled) -> str:
    """Where a set's labels come from and how many classes they name, e.g. ``"10 classes, labels from arr_1"``."""
    if samples.labels is None:
        return f"no labels ({samples.label_source.removeprefix('none: ')})"
    count = len(np.unique(samples.labels))
    return f"{count:,} class{'es' if count > 1 else ''}, labels from {samples.label_source}"
