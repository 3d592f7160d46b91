"""Errors of gradients and logits against a reference, per image: the figures that the checks and the benchmark report.

They are computed in float64, in the arrays' own library.
"""

from __future__ import annotations

from .arrays import Array, namespace
from .objectives import class_logit

# Lower bounds of the divisors: with them a reference of zeros gives a number and not a NaN.
_LEAST_NORM = 1e-30
_LEAST_LENGTH = 1e-60
_LEAST_SPREAD = 1e-12


def relative_error(got: Array, want: Array) -> Array:
    """||got - want||_2 / ||want||_2 per image: [B, ...] of any float dtype -> float64 [B]."""
    xp = namespace(got, want)
    got, want = _flat(got), _flat(want)
    norm = xp.linalg.vector_norm
    return norm(got - want, axis=1) / xp.clip(norm(want, axis=1), _LEAST_NORM, None)


def cosine(got: Array, want: Array) -> Array:
    """The cosine of the angle between `got` and `want` per image: [B, ...] of any float dtype -> float64 [B].

    It is 1 if both are zero, and 0 if one of them is.
    """
    xp = namespace(got, want)
    got, want = _flat(got), _flat(want)
    found = xp.sum(_unit(got) * _unit(want), axis=1)
    return xp.where(xp.any(got != 0, axis=1) | xp.any(want != 0, axis=1), found, xp.ones_like(found))


def class_logit_error(got: Array, predicted: Array, logits: Array, labels: Array) -> tuple[Array, int]:
    """Compare a forward pass's class logits and predictions with the reference's logits.

    Args:
        got: float [B], class logits f_c.
        predicted: int64 [B], predicted classes.
        logits: float [B, C], the reference's logits.
        labels: int64 [B], the class of f_c.

    Returns:
        The error of each class logit relative to the spread (standard deviation) of its image's reference logits,
        float64 [B]; and the number of predicted classes that differ from the reference's. A near-tie does not count:
        the reference's logit of the predicted class is within four times the worst error of the largest logit.
    """
    xp = namespace(got, predicted, logits, labels)
    got, logits = xp.astype(got, xp.float64), xp.astype(logits, xp.float64)
    spread = xp.clip(xp.std(logits, axis=1, correction=1), _LEAST_SPREAD, None)
    error = xp.abs(got - class_logit(logits, labels)) / spread
    known = (predicted >= 0) & (predicted < logits.shape[1])  # a wrong program may predict any number
    short = xp.max(logits, axis=1) - class_logit(logits, xp.where(known, predicted, xp.zeros_like(predicted)))
    wrong = ~known | (short > 4 * xp.max(error) * spread + 1e-6 * spread)
    return error, int(xp.sum(xp.astype(wrong, xp.int64)))


def _flat(v: Array) -> Array:
    xp = namespace(v)
    return xp.reshape(xp.astype(v, xp.float64), (v.shape[0], -1))


def _unit(v: Array) -> Array:
    # Normalise each vector by itself: the product of two small norms would underflow.
    xp = namespace(v)
    return v / xp.clip(xp.linalg.vector_norm(v, axis=1, keepdims=True), _LEAST_LENGTH, None)
