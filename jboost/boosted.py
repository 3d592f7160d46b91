"""What boosting gives: the images, and the run in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jboost.engine.results.summary import Summary


@dataclass(frozen=True)
class Boosted:
    """Result of boosting.

    Attributes:
        images: of the input's kind and order; uint8 [N, H, W, C] for uint8 arrays.
        summary: the run in numbers.
        records: structured [N], one per image: steps taken, realness before and after, ...; see
            `jboost.engine.results.summary.RECORD`.
        snapshots: by step count, the images after that many steps, of the same kind.
        notes: what was assumed about the images and rounded, a line each.
    """

    images: Any
    summary: Summary
    records: np.ndarray[Any, Any] = field(repr=False)
    snapshots: Mapping[int, Any] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
