"""Timing engines against each other, for the choice that ``--engine auto`` makes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from time import perf_counter

import numpy as np

from jboost.engine.loop.flight import Flight, Numpy
from jboost.engine.loop.runner import Runner
from jboost.engine.method.updates import PGD

#: Seconds that a choice may take, loading apart.
BUDGET = 2.0
_ROUNDS = 9  # enough for a median


def endless_flight(runner: Runner, images: Numpy, y: Numpy) -> Flight:
    """A flight whose images never land, to time steps with.

    Args:
        runner: any.
        images: uint8 [B, H, W, C].
        y: int64 [B], classes.
    """
    count, height, width, channels = images.shape
    update = PGD(step_size=1e-6)
    flight = runner.flight(update.kind, update.controls(), count, (channels, height, width))
    flight.admit(np.arange(count), images, y, np.arange(count), np.full(count, np.iinfo(np.int64).max))
    return flight


def time_runners(
    runners: Mapping[str, Runner],
    *,
    shape: tuple[int, int, int],
    num_classes: int,
    batch_size: int,
    budget: float = BUDGET,
    on_failure: Callable[[str, Exception], None] | None = None,
) -> dict[str, float]:
    """Milliseconds an image-step of each runner: the median of alternating turns, after one turn each that does not count.

    A turn is what a run repeats: the steps between two statuses, and a fresh status, which waits for the device. A
    runner whose first turn alone takes longer than the budget gets no other: that turn is its time.

    Args:
        runners: by name. One whose batch is fixed is timed at that.
        shape: (C, H, W).
        num_classes: labels are drawn from them.
        batch_size: images in flight, for the others.
        budget: seconds in all; every runner is timed once at least and nine times at most.
        on_failure: told of a runner that fails, which then has no time; without, what it raises is raised.
    """
    rng = np.random.default_rng(0)
    channels, height, width = shape
    flights: dict[str, tuple[Flight, int]] = {}
    taken: dict[str, list[float]] = {}

    def turn(flight: Flight, count: int) -> tuple[float, float]:
        begin = perf_counter()
        for _ in range(flight.status_every):
            flight.step()
        flight.status(fresh=True)
        seconds = perf_counter() - begin
        return seconds, seconds / (count * flight.status_every) * 1e3

    for name, runner in runners.items():
        count = runner.batch_size or batch_size
        images = rng.integers(0, 256, (count, height, width, channels), np.uint8)
        try:
            flight = endless_flight(runner, images, rng.integers(0, num_classes, count))
            first, ms = turn(flight, count)
        except Exception as e:  # a backend's own; the others can still be used
            if on_failure is None:
                raise
            on_failure(name, e)
            continue
        taken[name] = [ms] if first > budget else []
        if first <= budget:
            flights[name] = flight, count
    start = perf_counter()
    while flights:
        for name, (flight, count) in flights.items():
            taken[name].append(turn(flight, count)[1])
        rounds = len(taken[name])
        if rounds == _ROUNDS or (perf_counter() - start) * (1 + 1 / rounds) > budget:
            break
    return {name: statistics.median(times) for name, times in taken.items()}
