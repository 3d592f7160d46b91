"""From the iterate to whole grey levels: round to nearest, but never beyond the ball around the input; or cut fractions off.

A ball is a promise about the image that is written. Rounding to nearest breaks it: 0.03 is 7.65 levels and would become 8, and
many small changes that are rounded up leave an L2 ball. So the largest change is settled in whole levels, and rounding keeps to it.

The released script cuts fractions off instead. That darkens an image by half a level in the mean and can carry it out of a ball, so
it is there for comparison with published figures, and without a ball alone.

An image's rounding depends on that image alone. `kernels.cu` (jboost_collect) computes the same levels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from jboost.engine.errors import BadInputError, printable

from .arrays import Array, namespace, per_image
from .updates import BALLS, Update

#: What a run may ask for, the default first.
NEAREST, FLOOR = "nearest", "floor"
NO_BALL, L2, LINF, CUT = 0, 1, 2, 3
#: The smallest radius within which a pixel can change by one level, in either norm.
ONE_LEVEL = 1 / 255
# A radius of 8/255 is 8 levels, whichever way its float32 is rounded.
_SLACK = 1e-6
# How finely `_shortened` chooses; a power of two, so that its fractions are exact.
_PARTS = 512
_HUGE = 2.0**62


class Limit(NamedTuple):
    """How far a written image may lie from its input.

    Attributes:
        ball: `NO_BALL`, `L2` or `LINF`; ``CUT``: no ball, and fractions of a level are cut off.
        most: in whole levels: ``LINF``: the largest change of a value; ``L2``: the largest sum of squared changes.
    """

    ball: int
    most: int


def limit_of(update_kind: str, radius: float, rounding: str = NEAREST) -> Limit:
    """The limit for an update kind, a radius in units of the image's range [0, 1] (infinity for no ball) and a rounding.

    Raises:
        BadInputError: there is no such rounding, or it does not keep to the ball.
    """
    if rounding not in (NEAREST, FLOOR):
        raise BadInputError(f"--rounding {printable(str(rounding)[:60])}: give {NEAREST} or {FLOOR}")
    norm = BALLS.get(update_kind)
    if norm is None or not math.isfinite(radius):
        return Limit(CUT if rounding == FLOOR else NO_BALL, 0)
    if rounding == FLOOR:
        raise BadInputError(
            f"--rounding floor cuts fractions off, which would carry images out of the ball of eps {radius:g}; use --rounding "
            "nearest, which keeps to the ball"
        )
    levels = float(radius) * 255 * (1 + _SLACK)
    if norm == "linf":
        return Limit(LINF, int(min(levels, 255)))
    return Limit(L2, int(min(levels * levels, _HUGE)))


def round_within(x: Array, x0: Array, limit: Limit) -> Array:
    """The levels float32 [N, C, H, W], whole numbers in [0, 255], of an iterate `x` whose input was `x0`.

    Without a ball: `x` clamped to [0, 1] (algorithm 3's last line) and rounded to nearest. ``LINF``: the nearest level of
    those within the ball. ``L2``: rounded to nearest, and if that leaves the ball, the image's changes are rounded with a
    higher threshold than one half, the lowest that keeps the image inside. ``CUT``: `x` clamped, and what changed cut off to
    the level below; a value that did not change keeps its level.
    """
    xp = namespace(x, x0)
    scaled = xp.clip(x, 0.0, 1.0) * 255.0
    if limit.ball == CUT:
        return xp.where(x == x0, xp.round(x0 * 255.0), xp.floor(scaled))
    nearest = xp.round(scaled)
    if limit.ball == NO_BALL:
        return nearest
    start = xp.round(x0 * 255.0)
    if limit.ball == LINF:
        return xp.minimum(xp.maximum(nearest, start - float(limit.most)), start + float(limit.most))
    over = _squares(nearest - start) > limit.most
    if bool(xp.any(over)):
        nearest[over] = start[over] + _shortened(scaled[over] - start[over], limit.most)
    return nearest


def _shortened(moved: Array, most: int) -> Array:
    """Changes `moved` in levels [n, C, H, W] as whole levels whose squares add up to at most `most` in each image.

    A change is rounded away from zero where its fraction is at least 1/2 + k/512, with the smallest k that fits; k = 256
    cuts fractions off, and k = 512 takes a further half level off, in case float32 put the iterate a trace outside the ball.
    """
    xp = namespace(moved)
    size = xp.abs(moved)

    def cut(parts: Array) -> Array:
        return xp.floor(xp.maximum(size + per_image(0.5 - parts / _PARTS, size), xp.zeros_like(size)))

    low = xp.zeros_like(size[:, 0, 0, 0])  # does not fit; float32 holds the numbers exactly
    high = low + float(_PARTS)
    for _ in range(_PARTS.bit_length() - 1):
        middle = xp.floor((low + high) / 2)
        fits = _squares(cut(middle)) <= most
        low, high = xp.where(fits, low, middle), xp.where(fits, middle, high)
    return xp.sign(moved) * cut(high)


def _squares(levels: Array) -> Array:
    """Sum of squares of whole numbers, exact: [N, ...] -> int64 [N]."""
    xp = namespace(levels)
    whole = xp.astype(xp.reshape(levels, (levels.shape[0], -1)), xp.int64)
    return xp.sum(whole * whole, axis=1)


def why_nothing_moves(update: Update) -> str | None:
    """Why no image can change by even one level under an update, and the remedy; None if it can."""
    radius = update.strengths().radius
    limit = limit_of(update.kind, radius)
    if update.steps == 0 or limit.ball == NO_BALL or limit.most > 0:
        return None
    return (
        f"eps {radius:g} is less than one grey level, so every image comes back as it was; the smallest eps that changes a "
        f"pixel is {math.ceil(ONE_LEVEL * 1e5) / 1e5:g} (1/255)"
    )
