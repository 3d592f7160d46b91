"""Holding a plan against eager autograd on the GPU that runs it, before it serves anything.

A plan that was built without its GPU could not be run there, and TensorRT-RTX compiles a plan's kernels where it is run. So a
bundle with plans holds a few images with their logits and gradients, which eager autograd computed in float64, and whoever opens a
plan compares. That takes as long as a step or two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.method.compare import class_logit_error, cosine, relative_error

Numpy = np.ndarray[Any, Any]
#: (x float32 [B, C, H, W], y int64 [B]) -> the outputs of a gradient graph, or of one of the forward pass, as numpy arrays.
Run = Callable[[Numpy, Numpy], Sequence[Numpy]]


@dataclass(frozen=True)
class Reference:
    """Images, and what eager autograd in float64 says of them.

    Attributes:
        x: float32 [n, C, H, W] in [0, 1].
        y: int64 [n], classes.
        logits: float32 [n, K].
        grad: float32 [n, C, H, W], the gradient of one objective.
    """

    x: Numpy
    y: Numpy
    logits: Numpy
    grad: Numpy

    @classmethod
    def read(cls, path: Path, objective: str) -> Self:
        """From a bundle's file.

        Raises:
            BadInputError: the file cannot be read, or lacks the objective.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(arrays["x"], arrays["y"], arrays["logits"], arrays[f"grad.{objective}"])
        except (OSError, ValueError, KeyError) as e:
            raise BadInputError(
                f"{path} holds no check images for objective {objective} ({e}); export the bundle again"
            ) from e


#: How an opened plan is compared: (run, reference, batch size, bounds, name); raises FailureError.
Check = Callable[[Run, Reference, int, dict[str, float], str], None]


def check_gradient(run: Run, reference: Reference, batch_size: int, bounds: dict[str, float], name: str) -> None:
    """Compare a plan of a gradient with the reference.

    Args:
        run: the plan.
        reference: images and answers.
        batch_size: images a call.
        bounds: the largest ``grad_median``, ``grad_worst``, ``cosine_worst`` (of one minus it) and ``logits_worst``.
        name: what to call it in an error.

    Raises:
        FailureError: names each figure above its bound.
    """
    grad, class_logit, _, predicted = _run(run, reference, batch_size)
    errors = relative_error(grad, reference.grad)
    figures = {
        "grad_median": float(np.median(errors)),
        "grad_worst": float(errors.max()),
        "cosine_worst": float((1 - cosine(grad, reference.grad)).max()),
    } | _readout(class_logit, predicted, reference)
    _judge(figures, bounds, name)


def check_forward(run: Run, reference: Reference, batch_size: int, bounds: dict[str, float], name: str) -> None:
    """The same for a plan of the forward pass.

    Raises:
        FailureError: names each figure above its bound.
    """
    class_logit, predicted = _run(run, reference, batch_size)
    _judge(_readout(class_logit, predicted, reference), bounds, name)


def _run(run: Run, reference: Reference, batch_size: int) -> list[Numpy]:
    n = len(reference.x)
    parts = []
    for start in range(0, n, batch_size):
        rows = np.arange(start, start + batch_size) % n  # the last batch is filled with the first images
        kept = min(batch_size, n - start)
        parts.append([output[:kept].copy() for output in run(reference.x[rows], reference.y[rows])])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _readout(class_logit: Numpy, predicted: Numpy, reference: Reference) -> dict[str, float]:
    errors, wrong = class_logit_error(class_logit, predicted, reference.logits, reference.y)
    return {"logits_worst": float(errors.max()), "predicted_wrong": float(wrong)}


def _judge(figures: dict[str, float], bounds: dict[str, float], name: str) -> None:
    # Written so that NaN fails.
    bounds = bounds | {"predicted_wrong": 0.0}
    over = [
        f"{key} {value:.3g} (bound {bounds[key]:.3g})" for key, value in figures.items() if not value <= bounds[key]
    ]
    if over:
        raise FailureError(
            f"{name} does not match eager autograd on this GPU: {', '.join(over)}; do not use it: build it again here with "
            "jboost export --format trt, or use another engine"
        )
