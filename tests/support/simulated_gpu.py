"""A flight on a simulated GPU with a clock of its own: steps are queued, a status may be one reading old, waiting costs time."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest

from jboost.engine.loop import pace, slots
from jboost.engine.loop.flight import Finished, RowStatus
from jboost.engine.loop.pace import Costs, Distance, Pace
from jboost.engine.loop.slots import Slots
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import PGD


class SimulatedGpu:
    """A runner and its flight. Image i stops after `stop_after[i]` steps.

    Args:
        stop_after: int64 [N].
        costs: seconds of a step, of waiting for a status, and of taking images out and putting others in.
    """

    status_every = 4

    def __init__(self, stop_after: np.ndarray, costs: Costs):
        self.stop_after, self.costs = stop_after, costs
        self.now = self.busy_until = 0.0
        self.steps = 0

    def clock(self) -> float:
        return self.now

    def flight(self, update_kind, controls, count, shape, rounding="nearest"):
        self.index, self.taken = np.full(count, -1), np.zeros(count, np.int64)
        self.limit, self.moving = np.zeros(count, np.int64), np.zeros(count, bool)
        self.earlier = None
        return self

    def admit(self, rows, images, y, index, limit, numbers):
        self.now += self.costs.turnover / 2
        self.index[rows], self.limit[rows], self.taken[rows], self.moving[rows] = index, limit, 0, True

    def step(self):
        self.now += 5e-6
        self.busy_until = max(self.now, self.busy_until) + self.costs.step
        self.steps += 1
        # The step that finds the realness reached does not move the image.
        stopped = self.moving & (self.taken >= self.stop_after[self.index])
        self.taken += self.moving & ~stopped
        self.moving &= ~stopped & (self.taken < self.limit)

    def status(self, *, fresh):
        self.now += 5e-6
        reals, no = np.zeros(len(self.index), np.float32), np.zeros(len(self.index), bool)
        copy = RowStatus(self.index.copy(), self.moving.copy(), no, self.taken.copy(), self.limit.copy(), reals)
        newest, before = (copy, self.busy_until), self.earlier
        self.earlier = newest
        status, at = newest if fresh or before is None else before
        self.now = max(self.now, at) + (self.costs.status if fresh else 0)
        return status

    def collect(self, rows):
        self.now = max(self.now, self.busy_until) + self.costs.turnover / 2
        n = len(rows)
        no, reals = np.zeros(n, bool), np.zeros(n, np.float32)
        return Finished(
            np.zeros((n, 1, 1, 1), np.uint8), self.index[rows], no.astype(int), self.taken[rows],
            self.taken[rows] < self.limit[rows], no, no, reals, no.astype(int), reals,
        )  # fmt: skip


@contextmanager
def fixed_pace(distance: Distance | None):
    """Slots that keep to a distance; None: the flight's `status_every`, one reading late."""

    class Fixed(Pace):
        def __init__(self, default, steps, *, early):
            super().__init__(default, steps, early=False)
            self.distance = distance or Distance(default, False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slots, "Pace", Fixed)
        yield


def relative_times(stop_after: np.ndarray, costs: Costs, *, rows: int = 64, limit: int = 35) -> tuple[float, float]:
    """Row-steps against those that the images need, and the run's time against that of these steps alone."""
    gpu = SimulatedGpu(stop_after, costs)
    how = Settings(PGD(steps=limit), "joint", l0=1.0, early_stop=True, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        for module in (pace, slots):
            patch.setattr(module, "perf_counter", gpu.clock)
        running = Slots(gpu, how, rows, (1, 1, 1))
        waiting = np.arange(len(stop_after))
        while len(waiting) or len(running.held):
            entering, waiting = waiting[: len(running.free)], waiting[len(running.free) :]
            if len(entering):
                running.admit(np.zeros((len(entering), 1, 1, 1), np.uint8), entering, entering)
            running.step()
            running.harvest()
    ideal = np.minimum(stop_after + 1, limit).sum() / rows  # the last one finds that the image may stop
    return gpu.steps / ideal, gpu.now / (ideal * costs.step)
