"""Gradient graphs in one call, and run by eager torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from jboost.export.graph.trace import attach_objective, trace_trunk
from jboost.export.verification.gradient import Run


def trace_gradient(
    model: nn.Module, objective: str, example: Tensor, l0: float | None = None, **how: Any
) -> fx.GraphModule:
    """`trace_trunk`, which gets `how`, and `attach_objective`: (x, y) -> (grad, class_logit, loss, predicted)."""
    return attach_objective(trace_trunk(model, example, **how), objective, l0)


def graph_run(module: fx.GraphModule) -> Run:
    """A gradient graph for `measure`, without the runtime of any format."""

    def run(x: np.ndarray, y: np.ndarray) -> Sequence[np.ndarray]:
        with torch.no_grad():
            return [o.numpy() for o in module(torch.from_numpy(x), torch.from_numpy(y))]

    return run
