"""What a flight says of an image does not depend on who leaves with it."""

from __future__ import annotations

import numpy as np
import torch

from jboost.engine.backends.array_runner import distances


def test_an_image_that_leaves_alone_has_moved_as_far_as_in_company() -> None:
    moved = np.random.default_rng(0).random((20, 3, 160, 160), dtype=np.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for array in (moved, torch.from_numpy(moved)):
            together = np.asarray(distances(array))
            assert np.array_equal(distances(array[:3]), together[:3])
            for i in range(len(moved)):
                assert np.array_equal(distances(array[i : i + 1]), together[i : i + 1])
    finally:
        torch.set_num_threads(threads)
