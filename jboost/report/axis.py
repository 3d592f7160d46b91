"""Chart axes: positions of values, and ticks at round values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

_INTERVALS = 5


@dataclass(frozen=True)
class Tick:
    """A tick on an axis.

    Attributes:
        at: position, in the drawing's units.
        text: the value at the tick.
    """

    at: float
    text: str


def round_values(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Return about five values, equally spaced by 1, 2 or 5 times a power of ten.

    The first is at most `low`, the last at least `high` (Heckbert, "Nice numbers for graph labels", Graphics Gems
    1990).

    Args:
        low, high: finite, ``low <= high``.
        whole: make the spacing a whole number.
    """
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high)):  # a single value: add room around it
        span = abs(low) / 2 or 1.0
        low, high = low - span / 2, high + span / 2
    rough = span / _INTERVALS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, step)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def value_texts(values: list[float]) -> list[str]:
    """Format `values`, equally spaced, with just enough decimals to tell them apart."""
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 4:
        digits = max(3, math.floor(math.log10(max(map(abs, values)))) + decimals + 1)
        return ["0" if v == 0 else f"{v:.{digits}g}" for v in values]
    return [f"{v + 0.0:,.{decimals}f}" for v in values]


class Axis:
    """Map values to positions along a line of the drawing.

    Args:
        low, high: values at the ends of the line, ``low < high``.
        start, stop: positions of the ends, in the drawing's units.
        marked: values to tick; values beyond the ends get no tick.
        percent: the values are shares; tick texts are in percent.
    """

    def __init__(
        self, low: float, high: float, start: float, stop: float, marked: list[float], *, percent: bool = False
    ):
        self.low, self.high, self.start, self.stop = low, high, start, stop
        texts = [f"{t}%" for t in value_texts([100 * v for v in marked])] if percent else value_texts(marked)
        room = 1e-9 * (high - low)
        self.ticks = [
            Tick(self.place(v), text) for v, text in zip(marked, texts, strict=True) if low - room <= v <= high + room
        ]

    def place(self, value: float) -> float:
        """Return the position of `value`, rounded to a hundredth."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)
