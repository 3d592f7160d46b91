"""Convert a graph to a torch.export program."""

from __future__ import annotations

import torch
from torch import fx

from jboost.engine.errors import FailureError, first_line

from .operators import relu_mask  # noqa: F401  (registers the operator)


def _is_dynamic(module: fx.GraphModule) -> bool:
    x = next(node for node in module.graph.nodes if node.op == "placeholder")
    return not isinstance(x.meta["val"].shape[0], int)


def export_program(module: fx.GraphModule) -> torch.export.ExportedProgram:
    """Convert the graph to a torch.export program with inputs x and y; the batch stays fixed or open, as traced.

    Raises:
        FailureError: torch.export refuses the graph.
    """
    x, y = (node.meta["val"] for node in module.graph.nodes if node.op == "placeholder")
    dynamic = _is_dynamic(module)
    batch = 2 if dynamic else x.shape[0]
    arguments = (torch.rand((batch, *x.shape[1:]), dtype=x.dtype), torch.zeros(batch, dtype=y.dtype))
    shapes = None
    if dynamic:
        B = torch.export.Dim("batch", min=1, max=1 << 20)
        shapes = ({0: B}, {0: B})
    try:
        return torch.export.export(module, arguments, dynamic_shapes=shapes)
    except Exception as e:
        raise FailureError(f"torch.export refuses the gradient graph: {type(e).__name__}: {first_line(e)}") from e
