"""Timing engines against each other, for the choice that ``--engine auto`` makes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from time import perf_counter

import numpy as np

from .runner import Runner

#: Seconds that a choice may take, loading apart.
BUDGET = 2.0
_ROUNDS = 9  # enough for a median


def time_runners(
    runners: Mapping[str, Runner],
    *,
    shape: tuple[int, int, int],
    num_classes: int,
    batch_size: int,
    budget: float = BUDGET,
) -> dict[str, float]:
    """Milliseconds an image-step of each runner: the median of alternating calls, after one call each that does not count.

    A runner whose first call alone takes longer than the budget is not called again: that call is its time.

    Args:
        runners: by name. One whose batch is fixed is timed at that.
        shape: (C, H, W).
        num_classes: labels are drawn from them.
        batch_size: images a call, for the others.
        budget: seconds in all; every runner is timed once at least and nine times at most.
    """
    rng = np.random.default_rng(0)
    calls = {}
    taken: dict[str, list[float]] = {}
    for name, runner in runners.items():
        count = runner.batch_size or batch_size
        x = runner.put(rng.random((count, *shape), dtype=np.float32))
        y = runner.put(rng.integers(0, num_classes, count))
        begin = perf_counter()
        runner.get(runner.gradient(x, y).class_logit)
        first = perf_counter() - begin
        taken[name] = [first / count * 1e3] if first > budget else []
        if first <= budget:
            calls[name] = runner, x, y, count
    start = perf_counter()
    while calls:
        for name, (runner, x, y, count) in calls.items():
            begin = perf_counter()
            runner.get(runner.gradient(x, y).class_logit)  # waits for the device
            taken[name].append((perf_counter() - begin) / count * 1e3)
        rounds = len(taken[name])
        if rounds == _ROUNDS or (perf_counter() - start) * (1 + 1 / rounds) > budget:
            break
    return {name: statistics.median(times) for name, times in taken.items()}
