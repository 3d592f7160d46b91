"""The check that no operator without a forward form is left in a traced graph, and the message when one is."""

from __future__ import annotations

from torch import fx

from jboost.engine.errors import BadInputError

#: Node metadata: the model's module that a forward node came from.
MODULE_KEY = "jboost_module"

# Operators that no runtime but torch has, besides everything that is called "backward".
_FORBIDDEN = (
    "_fused_", "_flash_attention", "_efficient_attention", "_cudnn_attention", "_thnn_", "mkldnn",
    "native_dropout",
)  # fmt: skip


def _origin(node: fx.Node) -> str:
    """The module a node came from: its own, or that of the nearest forward node it reads or that reads the same values."""
    seen: set[fx.Node] = set()
    queue = [node]
    while queue:
        current = queue.pop(0)
        if MODULE_KEY in current.meta:
            return str(current.meta[MODULE_KEY])
        if current in seen:
            continue
        seen.add(current)
        # The saved activations come last among a backward operator's arguments, the incoming gradient first.
        queue += reversed(current.all_input_nodes)
    return "an unnamed part of the model"


def is_leftover(node: fx.Node) -> bool:
    """Whether `node` is a backward operator, or one that only torch's kernels implement."""
    name = str(node.target)
    return node.op == "call_function" and ("backward" in name or any(part in name for part in _FORBIDDEN))


def check_no_leftovers(module: fx.GraphModule) -> None:
    """Raise where an operator of the graph has no forward form.

    Raises:
        BadInputError: names each such operator, the module it came from, and how to add a rule.
    """
    found: dict[str, str] = {}
    for node in module.graph.nodes:
        if is_leftover(node):
            found.setdefault(str(node.target), _origin(node))
    if found:
        what = "; ".join(f"{operator}, from {origin}" for operator, origin in found.items())
        raise BadInputError(
            f"no rule turns this operator into forward operators: {what}. Add one with "
            "jboost.export.graph.decompositions.register(torch.ops.…), a function of the operator's arguments that is written in "
            "plain torch operators; or replace the layer in the model"
        )
