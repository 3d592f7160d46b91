"""How far gradients and logits are from a reference, image by image: the figures that every check and the benchmark report.

Computed in float64, in whatever array library the arrays belong to.
"""

from __future__ import annotations

from .arrays import Array, namespace
from .objectives import class_logit

# Norms and spreads below these count as these, so that a reference of zeros gives a number and not a NaN.
_LEAST_NORM = 1e-30
_LEAST_LENGTH = 1e-60
_LEAST_SPREAD = 1e-12


def relative_error(got: Array, want: Array) -> Array:
    """||got - want||_2 / ||want||_2 of each image: [B, ...] of any float dtype -> float64 [B]."""
    xp = namespace(got, want)
    got, want = _flat(got), _flat(want)
    norm = xp.linalg.vector_norm
    return norm(got - want, axis=1) / xp.clip(norm(want, axis=1), _LEAST_NORM, None)


def cosine(got: Array, want: Array) -> Array:
    """The cosine of the angle between `got` and `want` of each image: [B, ...] of any float dtype -> float64 [B].

    It is 0 where either is zero.
    """
    xp = namespace(got, want)
    return xp.sum(_unit(_flat(got)) * _unit(_flat(want)), axis=1)


def class_logit_error(got: Array, predicted: Array, logits: Array, labels: Array) -> tuple[Array, int]:
    """Compare what a forward pass says of images with the reference's logits.

    Args:
        got: float [B], class logits f_c.
        predicted: int64 [B], predicted classes.
        logits: float [B, C], the reference's.
        labels: int64 [B], the class of f_c.

    Returns:
        The error of each class logit relative to the spread (standard deviation) of the reference logits of its image, float64
        [B]; and how many of the predicted classes are not the reference's. A near-tie does not count: the reference's logit of
        that class is within four times the worst error of the largest.
    """
    xp = namespace(got, predicted, logits, labels)
    got, logits = xp.astype(got, xp.float64), xp.astype(logits, xp.float64)
    spread = xp.clip(xp.std(logits, axis=1, correction=1), _LEAST_SPREAD, None)
    error = xp.abs(got - class_logit(logits, labels)) / spread
    known = (predicted >= 0) & (predicted < logits.shape[1])  # a program that is wrong may predict any number
    short = xp.max(logits, axis=1) - class_logit(logits, xp.where(known, predicted, xp.zeros_like(predicted)))
    wrong = ~known | (short > 4 * xp.max(error) * spread + 1e-6 * spread)
    return error, int(xp.sum(xp.astype(wrong, xp.int64)))


def _flat(v: Array) -> Array:
    xp = namespace(v)
    return xp.reshape(xp.astype(v, xp.float64), (v.shape[0], -1))


def _unit(v: Array) -> Array:
    # Each is made a unit vector by itself: the product of two small norms would underflow.
    xp = namespace(v)
    return v / xp.clip(xp.linalg.vector_norm(v, axis=1, keepdims=True), _LEAST_LENGTH, None)
