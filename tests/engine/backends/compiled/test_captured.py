"""The flight with fixed addresses gives the results of the plain one, though its status is late. On the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bowl import Bowl, NumpyRunner
from loop_cases import expected, run_slots

from jboost.engine.backends.compiled.captured import CapturedFlight
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import PGD, SGLD

SHAPE = (2, 3, 5)


class Plain(NumpyRunner):
    """The bowl on torch's tensors; half precision overflows for images whose first pixel is 0."""

    name = "bowl"
    device = "cpu"

    def __init__(self):
        super().__init__(Bowl(0.5, overflow=0.0, classes=1))

    def put(self, array):
        return torch.from_numpy(array).to(self.device)

    def get(self, array):
        return array.cpu().numpy()


class Captured(Plain):
    def flight(self, update_kind, controls, count, shape):
        return CapturedFlight(self, update_kind, controls, count, shape)


@pytest.mark.parametrize("update", [PGD(9, 0.1), PGD(9, 0.3, eps=0.5), SGLD(9, 0.01, noise=0.05)], ids=repr)
@pytest.mark.parametrize("early_stop", [False, True])
def test_fixed_addresses_change_nothing(update, early_stop) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (23, *SHAPE[1:], SHAPE[0]), dtype=np.uint8)
    images[[3, 17], 0, 0, 0] = 0
    how = Settings(update=update, objective="logit", l0=5.0, early_stop=early_stop, seed=1)
    limits, y, numbers = rng.integers(0, 10, 23), np.zeros(23, np.int64), rng.integers(0, 2**63, 23)
    plain, *captured = (
        run_slots(runner, images, y, how, batch_size=batch_size, limits=limits, numbers=numbers)
        for runner, batch_size in ((Plain(), 23), (Captured(), 4), (Captured(), 7))
    )
    assert plain.records["retried"].any()
    want = expected(Plain(), images, y, how, limits=limits, numbers=numbers)
    # It is in numpy: the last bits of a norm may turn a rounding.
    assert np.abs(plain.images.astype(int) - want.images).max() <= 1
    for name in ("steps", "stopped", "retried", "failed"):
        np.testing.assert_array_equal(plain.records[name], want.records[name])
    for store in captured:
        np.testing.assert_array_equal(store.images, plain.images)
        np.testing.assert_array_equal(store.records, plain.records)
