"""How many steps to queue between two readings of the row status, by measurement.

A row whose image has stopped is wasted until the host sees it. Reading the status costs the device time too: it idles while
the host reads, takes images out and puts others in. The best distance depends on how long a step is, which differs between
GPUs, networks and batch sizes by a factor of a thousand.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from .flight import Flight

Numpy = np.ndarray[Any, Any]

#: The most steps between two readings.
MOST = 16
_KEPT = 15  # measurements of each kind
_ENOUGH = 3  # measurements before the first choice
_AGAIN = 8  # turns between two choices


class Costs(NamedTuple):
    """Seconds in which the device is busy or idles.

    Attributes:
        step: one step of all rows.
        status: waiting for the status after the last step.
        turnover: taking images out of their rows and putting others in.
    """

    step: float
    status: float
    turnover: float


class Distance(NamedTuple):
    """Steps to queue between two readings, and whether the host waits for the newest status or takes the one before."""

    steps: int
    fresh: bool


def relative_time(costs: Costs, mean_steps: float, distance: Distance) -> float:
    """The time of a run against that of the steps that its images need, with every row in use: at least 1.

    Args:
        costs: of the flight.
        mean_steps: steps that an image needs on average, with the one that finds that it may stop.
        distance: between two readings.
    """
    steps, fresh = distance
    # An image stops anywhere between two readings; a status that is not fresh is one reading old.
    held = mean_steps + (steps - 1) / 2 + (0 if fresh else steps)
    turn = steps * costs.step + costs.turnover + (costs.status if fresh else 0)
    return held / mean_steps * turn / (steps * costs.step)


def best_distance(costs: Costs, mean_steps: float) -> Distance:
    """The distance with the shortest run."""
    choices = [Distance(steps, fresh) for steps in range(1, MOST + 1) for fresh in (True, False)]
    return min(choices, key=lambda distance: relative_time(costs, mean_steps, distance))


def measure_costs(flight: Flight, images: Numpy, y: Numpy, *, leaving: int) -> Costs:
    """The costs of a flight, for a benchmark: medians of a few measurements. They move its images and replace some of them.

    Args:
        flight: with an image in every row, none of which finishes.
        images: uint8 [n, H, W, C], images to put in.
        y: int64 [n], their classes.
        leaving: images that leave at a reading, at most n.
    """
    rows = np.arange(leaving)
    limit = np.full(leaving, np.iinfo(np.int64).max)

    def step() -> None:
        flight.step()

    def exchange() -> None:
        flight.collect(rows)
        flight.admit(rows, images[:leaving], y[:leaving], rows, limit, rows)

    def nothing() -> None:
        pass

    def seconds(work: Callable[[], None]) -> float:
        taken = []
        for _ in range(_ENOUGH + 1):
            start = perf_counter()
            work()
            flight.status(fresh=True)
            taken.append(perf_counter() - start)
        return median(taken[1:])  # the first one may allocate

    seconds(step)
    status = seconds(nothing)
    return Costs(max(seconds(step) - status, 1e-9), status, max(seconds(exchange) - status, 0.0))


class Pace:
    """Measures a flight while it runs, and chooses the distance. `Slots` calls the methods at the times that they name.

    The first readings are fresh and one step apart.

    Args:
        default: the flight's `status_every`. If it is 1, a status costs nothing, and nothing is measured.
        steps: the most steps that an image takes.
        early: whether images may stop before. If not, the default is kept: the host knows when they end.
    """

    def __init__(self, default: int, steps: int, *, early: bool):
        self._measures = early and default > 1
        self.distance = Distance(1, True) if self._measures else Distance(default, False)
        self._step, self._status, self._turnover = (deque[float](maxlen=_KEPT) for _ in range(3))
        self._finished = deque([(float(steps), 1)], _KEPT)  # steps in all, and images, of the last harvests
        self._idle = False  # nothing was queued on the device when the last status had been read
        self._left = False  # images have left since
        self._spent = 0.0  # on taking images out and putting others in since
        self._turns, self._due = 0, 0  # the turn of the next choice
        self._count, self._at = 1, 0.0

    @property
    def wants_status(self) -> bool:
        """Whether the device is idle and the cost of a status not known well."""
        return self._measures and self._idle and len(self._status) < _ENOUGH

    @property
    def costs(self) -> Costs | None:
        """What was measured; None while there is too little."""
        if min(len(self._step), len(self._status)) < _ENOUGH:
            return None
        # Until images have left: taking them out waits for the device as a status does.
        turnover = median(self._turnover or self._status)
        return Costs(max(median(self._step), 1e-9), median(self._status), turnover)

    @property
    def mean_steps(self) -> float:
        """Steps that an image needs, on average over the last harvests."""
        return max(sum(steps for steps, _ in self._finished) / sum(n for _, n in self._finished), 0.5)

    def queueing(self, count: int) -> None:
        """`count` steps are about to be queued."""
        if not self._measures:
            return
        if self._idle and self._left:
            self._turnover.append(self._spent)
        if self._turns >= self._due and (costs := self.costs) is not None:
            self.distance, self._due = best_distance(costs, self.mean_steps), self._turns + _AGAIN
        self._turns, self._count, self._at = self._turns + 1, count, perf_counter()

    def seen(self, *, fresh: bool) -> None:
        """The status after these steps, or an earlier one, has been read."""
        if self._measures:
            if fresh and self._idle and self._status:
                self._step.append(max(perf_counter() - self._at - median(self._status), 0.0) / self._count)
            self._idle, self._left, self._spent = fresh, False, 0.0

    def status_took(self, seconds: float) -> None:
        """A status was read for `wants_status`."""
        self._status.append(seconds)

    def spent(self, seconds: float) -> None:
        """Taking images out of rows, or putting some in, took so long."""
        self._spent += seconds

    def left(self, steps: int, images: int) -> None:
        """Images have left; they needed `steps` steps in all."""
        self._left = True
        self._finished.append((float(steps), images))
