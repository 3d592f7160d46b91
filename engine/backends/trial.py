"""Timing engines against each other, for ``--engine auto``."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from time import perf_counter

import numpy as np

from jboost.engine.loop.flight import Flight, Numpy
from jboost.engine.loop.runner import Runner
from jboost.engine.method.updates import PGD

#: Seconds that a choice may take, without loading.
BUDGET = 2.0
_ROUNDS = 9  # enough for a median


def endless_flight(runner: Runner, images: Numpy, y: Numpy) -> Flight:
    """A flight whose images never finish, for timing steps.

    Args:
        runner: any runner.
        images: uint8 [B, H, W, C].
        y: int64 [B], classes.
    """
    count, height, width, channels = images.shape
    update = PGD(step_size=1e-6)
    flight = runner.flight(update.kind, update.controls(), count, (channels, height, width))
    flight.admit(
        np.arange(count), images, y, np.arange(count), np.full(count, np.iinfo(np.int64).max), np.arange(count)
    )
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
    """Milliseconds per image-step of each runner: the median of alternating turns, after one warm-up turn each.

    A turn is what a run repeats: the steps between two statuses, and a fresh status, which waits for the device. If a
    runner's first turn alone takes longer than the budget, the runner gets no other turn: that turn is its time.

    Args:
        runners: by name. A runner with a fixed batch size is timed at that size.
        shape: (C, H, W).
        num_classes: the number of classes; labels are drawn from them.
        batch_size: images in flight, for the other runners.
        budget: seconds in total; every runner is timed at least once and at most nine times.
        on_failure: called with the name and the error of a runner that fails, which then has no time. Without it, the
            error is raised.
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
        except Exception as e:  # a backend raises its own types; the other engines can still be used
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
