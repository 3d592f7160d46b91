"""Compare a plan with eager autograd, on the GPU that runs it, before its first use.

A plan built without its GPU was never run, and TensorRT-RTX compiles a plan's kernels on the machine that runs it. A
bundle with plans therefore holds a few images with the logits and gradients that eager autograd computed in float64.
Every plan is compared with them when it is opened, which takes as long as one or two steps.
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
#: (x float32 [B, C, H, W], y int64 [B]) -> the outputs of a gradient graph or of a forward graph, as numpy arrays.
Run = Callable[[Numpy, Numpy], Sequence[Numpy]]


@dataclass(frozen=True)
class Reference:
    """Check images, with eager autograd's answers in float64.

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
        """Read the reference of one objective from a bundle's file.

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


#: Comparison of an opened plan: (run, reference, batch size, bounds, name) -> None; raises FailureError.
Check = Callable[[Run, Reference, int, dict[str, float], str], None]


def check_gradient(run: Run, reference: Reference, batch_size: int, bounds: dict[str, float], name: str) -> None:
    """Compare a gradient's plan with the reference.

    Args:
        run: the plan.
        reference: check images and answers.
        batch_size: images per call.
        bounds: largest ``grad_median``, ``grad_worst``, ``cosine_worst`` (one minus the cosine) and ``logits_worst``.
        name: name of the plan in errors.

    Raises:
        FailureError: a figure is above its bound; the message names each one.
    """
    grad, class_logit, _, predicted = _run(run, reference, batch_size)
    errors = relative_error(grad, reference.grad)
    figures = {
        "grad_median": float(np.median(errors)),
        "grad_worst": float(errors.max()),
        "cosine_worst": float((1 - cosine(grad, reference.grad)).max()),
    } | _forward_figures(class_logit, predicted, reference)
    _judge(figures, bounds, name)


def check_forward(run: Run, reference: Reference, batch_size: int, bounds: dict[str, float], name: str) -> None:
    """Compare a forward pass's plan with the reference; the arguments are those of `check_gradient`.

    Raises:
        FailureError: a figure is above its bound; the message names each one.
    """
    class_logit, predicted = _run(run, reference, batch_size)
    _judge(_forward_figures(class_logit, predicted, reference), bounds, name)


def _run(run: Run, reference: Reference, batch_size: int) -> list[Numpy]:
    n = len(reference.x)
    parts = []
    for start in range(0, n, batch_size):
        rows = np.arange(start, start + batch_size) % n  # the first images fill up the last batch
        kept = min(batch_size, n - start)
        parts.append([output[:kept].copy() for output in run(reference.x[rows], reference.y[rows])])
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _forward_figures(class_logit: Numpy, predicted: Numpy, reference: Reference) -> dict[str, float]:
    errors, wrong = class_logit_error(class_logit, predicted, reference.logits, reference.y)
    return {"logits_worst": float(errors.max()), "predicted_wrong": float(wrong)}


def _judge(figures: dict[str, float], bounds: dict[str, float], name: str) -> None:
    # Written as "not <=" so that NaN fails.
    bounds = bounds | {"predicted_wrong": 0.0}
    over = [
        f"{key} {value:.3g} (bound {bounds[key]:.3g})" for key, value in figures.items() if not value <= bounds[key]
    ]
    if over:
        raise FailureError(
            f"{name} does not match eager autograd on this GPU: {', '.join(over)}; do not use it: build it again here with "
            "jboost export --format trt, or use another engine"
        )
