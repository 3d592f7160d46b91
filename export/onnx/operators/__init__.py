"""The ONNX form of each torch operator that remains after the passes: one rule an operator, in `RULES`.

A rule takes the graph's `Builder`, the operator's node, and the node's arguments with ONNX values in place of nodes. It returns
the ONNX value of the result. It raises `NoRuleError` for arguments that it does not write.
"""

from __future__ import annotations

from . import elementwise, products, reductions, shapes  # noqa: F401  (each module adds its rules)
from .builder import RULES, Builder, NoRuleError

__all__ = ["RULES", "Builder", "NoRuleError"]
