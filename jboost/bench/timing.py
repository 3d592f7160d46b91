"""Timing by turns: on a shared machine two runs one after the other differ more than the things compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Calls before the clock starts: the first builds what is built lazily, the second runs with it.
WARM_UP = 2
#: Seconds between turns on a CPU. Thread pools spin for a while after their last job, on cores that the next one needs.
PAUSE = 0.01


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated timings, in the timings' unit."""

    median: float
    q1: float
    q3: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of `values`, of which there is at least one."""
    q1, median, q3 = np.percentile(np.asarray(values, np.float64), [25, 50, 75])
    return Spread(float(median), float(q1), float(q3))


def alternate(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    calls_per_turn: int = 1,
    wait: Callable[[], object] = lambda: None,
    pause: float = 0.0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> dict[str, list[float]]:
    """Time `calls` in rounds, each once a round; each round starts one further on, so that no one always goes first.

    Args:
        calls: what to time, by name; warmed up by the caller.
        rounds: turns that each gets.
        calls_per_turn: calls queued before waiting; more than one where waiting itself costs.
        wait: returns when everything queued is done (a GPU's synchronisation).
        pause: seconds of rest before each turn.
        clock, sleep: seconds; replaced by tests.

    Returns:
        By name, `rounds` times in seconds a call.
    """
    names = list(calls)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names) if names else 0
        for name in names[first:] + names[:first]:
            if pause:
                sleep(pause)
            call = calls[name]
            wait()
            start = clock()
            for _ in range(calls_per_turn):
                call()
            wait()
            taken[name].append((clock() - start) / calls_per_turn)
    return taken


def best_of(
    call: Callable[[], object],
    *,
    at_most: int,
    seconds: float,
    wait: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The shortest of up to `at_most` calls after a warm-up, in seconds; no more begin once `seconds` are spent."""
    begin = clock()
    call()
    wait()
    best = float("inf")
    for _ in range(at_most):
        start = clock()
        call()
        wait()
        end = clock()
        best = min(best, end - start)
        if end - begin > seconds:
            break
    return best
