"""How often the row status is read, on a simulated GPU: rows that wait for a reading against a device that waits for the host."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_gpu import SimulatedGpu, fixed_pace, relative_times

from jboost.engine.loop import pace
from jboost.engine.loop.pace import Costs, Distance, Pace, best_distance, measure_costs, relative_time
from jboost.engine.loop.slots import Slots
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import PGD

#: Images stop after some 10.5 of 35 steps.
STOP_AFTER = np.minimum(np.random.default_rng(0).geometric(1 / 10.8, 64 * 40), 35)
MEAN = float(np.minimum(STOP_AFTER + 1, 35).mean())


def test_a_reading_every_four_steps_and_one_late_wastes_a_third_of_the_rows() -> None:
    with fixed_pace(None):
        row_steps, _ = relative_times(STOP_AFTER, Costs(5e-3, 5e-5, 1e-4))
    assert row_steps > 1.3


def test_where_a_step_is_long_every_step_is_looked_at() -> None:
    row_steps, time = relative_times(STOP_AFTER, Costs(5e-3, 5e-5, 1e-4))
    assert row_steps < 1.05
    assert time < 1.08


@pytest.mark.parametrize("step", [5e-5, 2e-4, 1e-3, 5e-3])
@pytest.mark.parametrize("turnover", [1e-4, 5e-4])
def test_the_measured_distance_is_nearly_as_good_as_the_best(step, turnover) -> None:
    costs, fixed = Costs(step, 5e-5, turnover), []
    for distance in (None, *(Distance(n, fresh) for n in (1, 2, 4, 8, 16) for fresh in (True, False))):
        with fixed_pace(distance):
            fixed.append(relative_times(STOP_AFTER, costs)[1])
    _, time = relative_times(STOP_AFTER, costs)
    assert time < 1.2 * min(fixed)  # the first readings are for measuring
    assert time < 1.02 * fixed[0]  # every four steps, one late


def test_the_model_says_what_the_simulation_shows() -> None:
    for step in (2e-4, 1e-3, 5e-3):
        costs = Costs(step, 5e-5, 2e-4)
        for distance in (Distance(1, True), Distance(4, False), Distance(4, True)):
            with fixed_pace(distance):
                _, time = relative_times(STOP_AFTER, costs)
            assert relative_time(costs, MEAN, distance) == pytest.approx(time, rel=0.16)
    assert best_distance(Costs(1.0, 1e-5, 1e-5), 10.5) == (1, True)
    assert relative_time(Costs(1.0, 0.0, 0.0), 10.5, Distance(1, True)) == 1
    assert best_distance(Costs(1e-5, 1e-4, 1e-3), 30).steps == 16


def test_the_costs_that_it_finds_are_the_simulated_ones(monkeypatch) -> None:
    wanted = Costs(1e-3, 5e-5, 4e-4)
    found: list[Costs] = []

    class Watched(Pace):
        def queueing(self, count):
            super().queueing(count)
            found.append(self.costs)

    monkeypatch.setattr("jboost.engine.loop.slots.Pace", Watched)
    relative_times(STOP_AFTER, wanted)
    for got, want in zip(found[len(found) // 2], wanted, strict=True):
        assert got == pytest.approx(want, rel=0.15)


@pytest.mark.parametrize("early_stop", [False, True])
def test_nothing_is_measured_where_nothing_can_be_won(early_stop) -> None:
    """Without early stopping the host knows when images end; on a CPU a status costs nothing."""
    gpu = SimulatedGpu(STOP_AFTER, Costs(1e-3, 5e-5, 1e-4))
    gpu.status_every = 1 if early_stop else 4
    how = Settings(PGD(steps=35), "joint", l0=1.0, early_stop=early_stop, seed=0)
    slots = Slots(gpu, how, 4, (1, 1, 1))
    slots.admit(np.zeros((4, 1, 1, 1), np.uint8), np.arange(4), np.arange(4))
    for turn in range(1, 5):
        slots.step()
        slots.harvest()
        assert gpu.steps == turn * gpu.status_every


def test_a_benchmark_measures_the_same_costs(monkeypatch) -> None:
    wanted = Costs(1e-3, 5e-5, 4e-4)
    gpu = SimulatedGpu(np.full(8, 10**6), wanted)
    monkeypatch.setattr(pace, "perf_counter", gpu.clock)
    flight, at, images = gpu.flight("pgd-l2", None, 8, (1, 1, 1)), np.arange(8), np.zeros((8, 1, 1, 1), np.uint8)
    flight.admit(at, images, at, at, np.full(8, 10**6), at)
    got = measure_costs(flight, images, at, leaving=3)
    for a, b in zip(got, wanted, strict=True):
        assert a == pytest.approx(b, rel=0.15)
