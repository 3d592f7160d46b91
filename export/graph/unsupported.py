"""Find unsupported operators in a traced graph, those without a forward form, and report them."""

from __future__ import annotations

from torch import fx

from jboost.engine.errors import BadInputError

#: Key in a forward node's metadata: the module of the model that made the node.
MODULE_KEY = "jboost_module"

# Parts of the names of operators that only torch has; names with "backward" are unsupported too.
_FORBIDDEN = (
    "_fused_", "_flash_attention", "_efficient_attention", "_cudnn_attention", "_thnn_", "mkldnn",
    "native_dropout",
)  # fmt: skip


def _origin(node: fx.Node) -> str:
    """Return the module that made a node: its own, else that of the nearest forward node among its inputs."""
    seen: set[fx.Node] = set()
    queue = [node]
    while queue:
        current = queue.pop(0)
        if MODULE_KEY in current.meta:
            return str(current.meta[MODULE_KEY])
        if current in seen:
            continue
        seen.add(current)
        # In a backward operator's arguments the incoming gradient comes first and the saved activations last.
        queue += reversed(current.all_input_nodes)
    return "an unnamed part of the model"


def is_unsupported(node: fx.Node) -> bool:
    """Whether `node` is a backward operator, or one that only torch's kernels implement."""
    name = str(node.target)
    return node.op == "call_function" and ("backward" in name or any(part in name for part in _FORBIDDEN))


def check_supported(module: fx.GraphModule) -> None:
    """Check that every operator of the graph has a forward form.

    Raises:
        BadInputError: operators are unsupported; the message names each one, its module, and how to add a rule.
    """
    found: dict[str, str] = {}
    for node in module.graph.nodes:
        if is_unsupported(node):
            found.setdefault(str(node.target), _origin(node))
    if found:
        what = "; ".join(f"{operator}, from {origin}" for operator, origin in found.items())
        raise BadInputError(
            f"no rule turns this operator into forward operators: {what}. Add one with "
            "jboost.export.graph.decompositions.register(torch.ops.…), a function of the operator's arguments that is written in "
            "plain torch operators; or replace the layer in the model"
        )
