"""Time by turns: on a shared machine, two consecutive runs differ by more than the contestants do."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

#: Calls before the clock starts: the first builds lazily created state, the second runs with it.
WARM_UP = 2
#: Seconds between turns on a CPU. Thread pools spin for a while after their last job, on cores the next turn needs.
PAUSE = 0.01


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of repeated timings, in the timings' unit."""

    median: float
    q1: float
    q3: float


def spread(values: Sequence[float]) -> Spread:
    """Return median and quartiles of `values`, at least one."""
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
    """Time `calls` in rounds, each call once per round; each round starts with the next call, so none is always first.

    Args:
        calls: calls to time, by name; the caller has warmed them up.
        rounds: turns per call.
        calls_per_turn: calls queued before waiting; more than one if waiting itself takes time.
        wait: blocks until all queued work is done (a GPU's synchronisation).
        pause: seconds of rest before each turn.
        clock, sleep: in seconds; tests replace them.

    Returns:
        Name -> `rounds` times, in seconds per call.
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
    """Return the shortest of up to `at_most` calls after a warm-up, in seconds; no call starts after `seconds`."""
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
