"""A set of random images."""

from __future__ import annotations

import numpy as np
import pytest
from data_cases import CLASSES, COUNT, SIZE


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)


@pytest.fixture
def targets() -> np.ndarray:
    return np.arange(COUNT, dtype=np.int64) % CLASSES
