"""Remove nodes that no output needs, then the weights that only they read."""

from __future__ import annotations

from torch import fx


def remove_dead_code(module: fx.GraphModule) -> int:
    """Erase nodes without users (inputs stay), then buffers that no node reads, in place.

    Returns:
        The number of nodes and buffers removed.
    """
    removed = 0
    for node in reversed(list(module.graph.nodes)):
        if node.op not in ("placeholder", "output") and not node.users:
            module.graph.erase_node(node)
            removed += 1
    used = {node.target for node in module.graph.nodes if node.op == "get_attr"}
    for name in [name for name, _ in module.named_buffers(remove_duplicate=False)]:
        if name not in used:
            delattr(module, name)
            removed += 1
    module.graph.lint()
    module.recompile()
    return removed
