"""The flight with fixed addresses gives the results of the plain one, though its status is late. On the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bowl import Bowl, NumpyRunner
from loop_cases import expected, run_slots
from simulated_gpu import fixed_pace

from jboost.engine.backends.compiled.captured import CapturedFlight
from jboost.engine.loop import slots
from jboost.engine.loop.pace import Distance, Pace
from jboost.engine.loop.sets import SetWork, run_sets
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import PGD, SGLD
from jboost.engine.results.store import MemoryStore

SHAPE = (2, 3, 5)


@pytest.fixture(autouse=True, scope="module")
def late():
    """Statuses as late as they can be; `test_pace.py` is about how often they are read."""
    with fixed_pace(None):
        yield


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
    def flight(self, update_kind, controls, count, shape, rounding="nearest"):
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


@pytest.mark.parametrize("distance", [None, Distance(1, True), Distance(3, True), Distance(2, False)])
def test_sets_share_a_flight_however_often_its_status_is_read(distance, monkeypatch) -> None:
    """None: as often as is measured to be best."""
    rng = np.random.default_rng(0)
    how = Settings(update=SGLD(9, 0.01, noise=0.05), objective="logit", l0=5.0, early_stop=True, seed=1)

    def made(key):
        rng = np.random.default_rng(key)
        images = rng.integers(0, 256, (11, *SHAPE[1:], SHAPE[0]), dtype=np.uint8)
        y, numbers = np.zeros(11, np.int64), rng.integers(0, 2**63, 11)
        return SetWork(key, lambda at: images[at], y, numbers, MemoryStore(images.shape), images.shape[1:])

    with fixed_pace(distance):
        if distance is None:
            monkeypatch.setattr(slots, "Pace", Pace)
        got = {work.key: work.store for work in run_sets(Captured(), map(made, range(4)), how, batch_size=4)}
    for key in range(4):
        (want,) = run_sets(Plain(), iter([made(key)]), how, batch_size=int(rng.integers(1, 12)))
        np.testing.assert_array_equal(got[key].images, want.store.images)
        np.testing.assert_array_equal(got[key].records, want.store.records)
