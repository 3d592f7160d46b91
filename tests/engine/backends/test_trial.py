"""The trial that decides for ``--engine auto``: by turns, bounded, each engine at its own batch."""

from __future__ import annotations

import pytest

from jboost.engine.backends import trial


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Timed:
    """A runner and its flight: takes `seconds` a turn of two steps, the first one ten times as much."""

    status_every = 2

    def __init__(self, name: str, seconds: float, clock: Clock, calls: list[str], batch_size: int | None = None):
        self.name, self.seconds, self.clock, self.calls, self.batch_size = name, seconds, clock, calls, batch_size
        self.steps = 0

    def flight(self, update_kind, controls, count, shape, rounding="nearest"):
        assert (count, shape) == (self.batch_size or 4, (1, 2, 2))
        return self

    def admit(self, rows, images, y, index, limit, numbers):
        assert images.shape == (self.batch_size or 4, 2, 2, 1)
        assert (limit > 1e9).all()

    def step(self):
        self.steps += 1

    def status(self, *, fresh):
        assert fresh
        assert self.steps == 2
        self.steps = 0
        self.clock.now += self.seconds * (1 if self.name in self.calls else 10)
        self.calls.append(self.name)


@pytest.mark.parametrize(("seconds", "rounds"), [(0.001, 9), (0.1, 9), (0.19, 5)])
def test_alternating_within_the_budget_and_warm_up_apart(monkeypatch, seconds, rounds) -> None:
    clock, calls = Clock(), []
    monkeypatch.setattr(trial, "perf_counter", clock)
    runners = {"a": Timed("a", seconds, clock, calls), "b": Timed("b", seconds, clock, calls, batch_size=8)}
    times = trial.time_runners(runners, shape=(1, 2, 2), num_classes=3, batch_size=4)
    assert calls == ["a", "b"] * (1 + rounds)
    assert times == {"a": pytest.approx(seconds / 4 / 2 * 1e3), "b": pytest.approx(seconds / 8 / 2 * 1e3)}


def test_who_is_slower_than_the_budget_gets_one_turn(monkeypatch) -> None:
    clock, calls = Clock(), []
    monkeypatch.setattr(trial, "perf_counter", clock)
    runners = {"slow": Timed("slow", 1.0, clock, calls), "fast": Timed("fast", 0.1, clock, calls)}
    times = trial.time_runners(runners, shape=(1, 2, 2), num_classes=3, batch_size=4)
    assert calls.count("slow") == 1
    assert times == {"slow": pytest.approx(10 / 4 / 2 * 1e3), "fast": pytest.approx(0.1 / 4 / 2 * 1e3)}
    calls.clear()
    assert set(trial.time_runners({"slow": runners["slow"]}, shape=(1, 2, 2), num_classes=3, batch_size=4)) == {"slow"}


def test_who_fails_is_passed_over(monkeypatch) -> None:
    clock, calls, said = Clock(), [], []
    monkeypatch.setattr(trial, "perf_counter", clock)
    broken, works = Timed("broken", 0.1, clock, calls), Timed("works", 0.1, clock, calls)

    def fail() -> None:
        raise RuntimeError("no kernel image is available")

    broken.step = fail
    how = {"shape": (1, 2, 2), "num_classes": 3, "batch_size": 4}
    runners = {"broken": broken, "works": works}
    assert set(trial.time_runners(runners, **how, on_failure=lambda *what: said.append(what))) == {"works"}
    assert [(name, str(e)) for name, e in said] == [("broken", "no kernel image is available")]
    with pytest.raises(RuntimeError, match="kernel image"):
        trial.time_runners(runners, **how)
