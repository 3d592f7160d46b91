"""The objectives that a step minimises: one number per image, from its logits, its label and l0. Never a batch mean.

Equation numbers refer to Golan, Ganz, Elad, "Enhancing Consistency-Based Image Generation via Adversarially-Trained
Classification and Energy-Based Discrimination", NeurIPS 2024 (arXiv 2405.16260).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from jboost.engine.errors import BadInputError

from .arrays import Array, namespace


def softplus(z: Array) -> Array:
    """log(1 + exp(z)), without overflow; derivative sigmoid(z), also at 0."""
    xp = namespace(z)
    return xp.maximum(z, xp.zeros_like(z)) + xp.log1p(xp.exp(-xp.abs(z)))


def logsumexp(logits: Array) -> Array:
    """log sum_c exp(f_c): [B, C] -> [B]."""
    xp = namespace(logits)
    top = xp.max(logits, axis=1, keepdims=True)
    return xp.squeeze(top, axis=1) + xp.log(xp.sum(xp.exp(logits - top), axis=1))


def class_logit(logits: Array, labels: Array) -> Array:
    """f_c, the logit of each image's class: [B, C], int64 [B] -> [B]."""
    xp = namespace(logits, labels)
    return xp.squeeze(xp.take_along_axis(logits, xp.reshape(labels, (-1, 1)), axis=1), axis=1)


def realness(f_c: Array) -> Array:
    """softplus(f_c) = -log(1 - sigmoid(f_c)): the BCE loss of a generated image (eq. 8). High means real."""
    return softplus(f_c)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """-log softmax(f)_c per image: [B, C], int64 [B] -> [B]."""
    return logsumexp(logits) - class_logit(logits, labels)


def _logit(logits: Array, labels: Array, l0: float) -> Array:
    return -class_logit(logits, labels)


def _ce(logits: Array, labels: Array, l0: float) -> Array:
    return cross_entropy(logits, labels)


def _bce(logits: Array, labels: Array, l0: float) -> Array:
    return -realness(class_logit(logits, labels))


def _ce_bce(logits: Array, labels: Array, l0: float) -> Array:
    return cross_entropy(logits, labels) - realness(class_logit(logits, labels))


def _joint(logits: Array, labels: Array, l0: float) -> Array:
    # The paper prints a minus before the square. Its text ("minimizing the distance between l_BCE and l0") and its use
    # need a plus: only with a plus does the descent approach l0.
    return cross_entropy(logits, labels) + 0.5 * (realness(class_logit(logits, labels)) - l0) ** 2


def _energy(logits: Array, labels: Array, l0: float) -> Array:
    return -logsumexp(logits)


Objective = Callable[[Array, Array, float], Array]

#: Name -> function of (logits [B, C], labels int64 [B], l0) giving the loss [B] that a step minimises.
OBJECTIVES: dict[str, Objective] = {
    "logit": _logit,  # -f_c; the released code's SGLD
    "ce": _ce,  # cross-entropy; BIGROC, and a plain robust classifier
    "bce": _bce,  # -realness (eq. 8)
    "ce-bce": _ce_bce,  # eq. 11
    "joint": _joint,  # eq. 12
    "energy": _energy,  # eq. 6
}

#: Objectives that ignore the label.
LABEL_FREE = {"energy"}

#: Objectives that need l0, the mean realness of real images (eq. 13).
NEEDS_L0 = {"joint"}

#: What a user types for an objective from outside jboost, by its full name; see `jboost.engine.method.plugins`.
TYPED: dict[str, str] = {}


def typed(name: str) -> str:
    """What a user types behind ``--objective`` for the objective called `name`."""
    return TYPED.get(name, name)


def resolve_objective(name: str | None, l0: float | None) -> str:
    """The objective to use: `name` after a check, or the default: ``joint`` if l0 is known, ``bce`` if not.

    Raises:
        BadInputError: l0 is negative or not finite, the name is unknown, or the objective needs l0 and l0 is None.
    """
    if l0 is not None and not (math.isfinite(l0) and l0 >= 0):
        raise BadInputError(
            f"l0 must be a finite number of at least 0, got {l0}; it is the mean realness of real images (eq. 13)"
        )
    if name is None:
        return "joint" if l0 is not None else "bce"
    if name not in OBJECTIVES:
        raise BadInputError(f"unknown objective {name!r}; choose one of {', '.join(OBJECTIVES)}")
    if name in NEEDS_L0 and l0 is None:
        raise BadInputError(
            f"objective {name!r} needs l0, the mean realness of real images, which is not known; give labelled real "
            "images to the export: jboost export --ckpt FILE --real REAL_SAMPLES, or a value to the run: "
            "jboost boost --l0 V"
        )
    return name
