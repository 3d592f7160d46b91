"""Verify a graph that computes the forward pass alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from jboost.engine.errors import FailureError
from jboost.engine.method.compare import class_logit_error

from .gradient import References, Run, Tolerance, check_images


def verify_forward_graph(
    run: Run,
    model: nn.Module,
    shape: tuple[int, int, int],
    *,
    tolerance: Tolerance,
    fixed_batch: int | None,
    name: str,
    seed: int = 1,
    references: References | None = None,
) -> dict[str, float]:
    """Compare a forward graph in its runtime with `model` in float64.

    Args:
        run: the artefact in its own runtime, (x, y) -> (class_logit, predicted).
        model: float32 [B, C, H, W] in [0, 1] -> logits, in evaluation mode.
        shape: (C, H, W).
        tolerance: ``logits`` bounds the class logit's error relative to the spread of an image's logits.
        fixed_batch: the artefact's batch size; None if any size works.
        name: name of the artefact in errors.
        seed: seed of the check images; must differ from the seed that graphs are scaled with.
        references: what is known of `model` from other graphs; by default nothing is.

    Returns:
        ``logits_worst``, and ``predicted_wrong``: images whose predicted class differs, not counting near-ties.

    Raises:
        FailureError: a figure is above its bound.
    """
    references = references or References(model)
    worst, wrong = 0.0, 0
    for number, batch in enumerate((fixed_batch,) if fixed_batch else (4, 2)):
        for kind, x in enumerate(check_images(batch, shape, seed + number)):
            logits = references.logits(x, kind, seed + number)
            y = torch.randint(0, logits.shape[1], (batch,), generator=torch.Generator().manual_seed(seed + 100))
            f_c, predicted = (torch.from_numpy(np.asarray(o)) for o in run(x.numpy(), y.numpy()))
            error, others = class_logit_error(f_c, predicted, logits, y)
            worst = max(worst, float(error.max()))
            wrong += others
    if not worst <= tolerance.logits or wrong:
        raise FailureError(
            f"{name} does not match the model: class logit error {worst:.3g} (bound {tolerance.logits:.3g}), {wrong} images with "
            "another predicted class; do not use a graph that fails this check"
        )
    return {"logits_worst": worst, "predicted_wrong": float(wrong)}
