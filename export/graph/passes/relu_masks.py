"""Write a ReLU's gradient as a product with a mask computed from the ReLU's output.

where(y <= 0, 0, g) is a comparison and a selection. ONNX Runtime runs both slowly on a CPU (no vector code, plain
layout only). The mask and the product are ordinary elementwise arithmetic, and recompute nothing of the forward pass.
"""

from __future__ import annotations

import torch
from torch import fx

from jboost.export.graph.operators import relu_mask  # noqa: F401  (registers the operator)
from jboost.export.graph.rewriter import Rewriter, arguments

aten = torch.ops.aten


def relu_masks_as_products(module: fx.GraphModule) -> int:
    """Rewrite where(y <= 0, 0, g), y a ReLU's output, as g * relu_mask(y). The result is the same for every finite g.

    Returns:
        The number of masks rewritten.
    """
    r = Rewriter(module)
    for node in list(r.graph.nodes):
        if node.target is not aten.where.self:
            continue
        condition, zero, g = arguments(node)
        value = r.value(zero)
        if not isinstance(condition, fx.Node) or condition.target is not aten.le.Scalar or condition.args[1] != 0:
            continue
        y = arguments(condition)[0]
        if y.target is not aten.relu.default or value is None or bool((value != 0).any()):
            continue
        with r.before(node):
            r.replace(node, r.call(aten.mul.Tensor, g, r.call(torch.ops.jboost.relu_mask.default, y)))
    return r.done()
