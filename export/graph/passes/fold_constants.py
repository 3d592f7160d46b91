"""Fold constants, drop operators that do nothing, and merge duplicate expressions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from jboost.export.graph.rewriter import Rewriter

aten = torch.ops.aten

# A constant may be larger than its inputs (a pooling matrix, a table of positions), but a batch of zeros is not worth
# storing. The limit is this many numbers or twice the inputs', whichever is larger.
_MOST_NEW = 1 << 16

_NO_OPS = (aten.clone.default, aten.alias.default, aten.detach.default, aten.lift_fresh_copy.default)


def _is_pure(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    target = node.target
    if not isinstance(target, torch._ops.OpOverload):
        return True  # getitem, arithmetic on sizes
    return not target._schema.is_mutable and torch.Tag.nondeterministic_seeded not in target.tags


def drop_no_ops(module: fx.GraphModule) -> int:
    """Remove copies, aliases, and views, slices, pads, casts and expansions that keep shape and dtype.

    Views become reshapes: removing a copy, and every later pass, may change the strides that a view requires.

    Returns:
        The number of operators removed.
    """
    r = Rewriter(module)
    same = (
        aten.expand.default, aten.reshape.default, aten._to_copy.default, aten.slice.Tensor, aten.constant_pad_nd.default,
    )  # fmt: skip
    for node in list(r.graph.nodes):
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], fx.Node):
            continue
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
        source = node.args[0]
        now, was = node.meta.get("val"), source.meta.get("val")
        if node.target in _NO_OPS:
            r.replace(node, source)
        elif node.target in same and isinstance(now, Tensor) and isinstance(was, Tensor):
            if now.dtype != was.dtype or now.dim() != was.dim() or now.device != was.device:
                continue
            crops = node.target is aten.constant_pad_nd.default and any(p != 0 for p in node.args[1])
            if not crops and all(str(a) == str(b) for a, b in zip(now.shape, was.shape, strict=True)):
                r.replace(node, source)
    return r.done()


def fold_constants(module: fx.GraphModule) -> int:
    """Replace expressions of constants by their values, computed by torch in the expression's dtype.

    Returns:
        The number of expressions replaced.
    """
    r = Rewriter(module)
    values: dict[fx.Node, Any] = {}
    for node in list(r.graph.nodes):
        if node.op == "get_attr":
            values[node] = r.value(node)
        elif _is_pure(node) and all(i in values for i in node.all_input_nodes):
            inputs = sum(values[i].numel() for i in node.all_input_nodes if isinstance(values[i], Tensor))
            fake = node.meta.get("val")
            if isinstance(fake, Tensor) and not all(isinstance(s, int) for s in fake.shape):
                continue
            if isinstance(fake, Tensor) and fake.numel() > max(2 * inputs, _MOST_NEW):
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    for node, value in values.items():
        needed = any(user not in values for user in node.users)
        if node.op != "get_attr" and needed and isinstance(value, Tensor):
            with r.before(node):
                r.replace(node, r.constant(value, f"folded_{node.name}"))
    return r.done()


def _key(value: Any) -> Any:
    """Return a hashable key of a node's argument, equal only for equal arguments (1 and 1.0 differ: dtypes may)."""
    if isinstance(value, (list, tuple)):
        return ("list", *(_key(v) for v in value))
    if isinstance(value, dict):
        return ("dict", *((k, _key(v)) for k, v in sorted(value.items())))
    if isinstance(value, slice):
        return ("slice", _key(value.start), _key(value.stop), _key(value.step))
    return (type(value).__name__, value)


def merge_duplicates(module: fx.GraphModule) -> int:
    """Compute equal expressions once, such as a pool's slices in forward and backward, or a mask of several branches.

    Returns:
        The number of duplicates removed.
    """
    r = Rewriter(module)
    seen: dict[Any, fx.Node] = {}
    for node in list(r.graph.nodes):
        if node.op == "get_attr":
            key: Any = ("constant", node.target)
        elif _is_pure(node):
            key = (node.target, _key(node.args), _key(node.kwargs))
        else:
            continue
        try:
            first = seen.setdefault(key, node)
        except TypeError:  # an unhashable argument: leave the node alone
            continue
        if first is not node:
            r.replace(node, first)
            r.graph.erase_node(node)  # erase now: its users then have equal arguments and can merge as well
    return r.done()
