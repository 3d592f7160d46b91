"""Rewrite fills, expansions and reshapes so that they do not read the batch size.

In an ONNX graph with an open batch, reading a size becomes a chain of Shape, Gather and Concat. GPU runtimes compute
such a chain on the CPU, in the middle of a graph that otherwise runs on the GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from jboost.export.graph.rewriter import Rewriter

aten = torch.ops.aten
_FILLS = (aten.full.default, aten.full_like.default)


def forget_batch_sizes(module: fx.GraphModule) -> int:
    """Replace batch sizes in expansions and reshapes by -1, and fills by smaller ones that broadcast, in place.

    Returns:
        The number of operators changed.
    """
    r = Rewriter(module)
    changed = 0
    small: set[fx.Node] = set()  # fills that are now smaller than their users
    for node in list(r.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is aten.expand.default:
            changed += _keep_sizes(node)
        elif node.target is aten.reshape.default:
            changed += _infer_size(node)
        elif node.target in _FILLS and _is_open(node) and all(_has_its_shape(u, {*small, node}) for u in node.users):
            now = node.meta["val"]
            with r.before(node):
                one = r.call(aten.full.default, [1, *now.shape[1:]], node.args[1], dtype=now.dtype, device=now.device)
            small.add(one)
            r.replace(node, one)
            changed += 1
    r.done()
    return changed


def _is_open(node: fx.Node) -> bool:
    shape = node.meta["val"].shape
    # Only the first dimension is open, so a fill of size 1 broadcasts over it.
    return bool(len(shape)) and not isinstance(shape[0], int) and all(isinstance(size, int) for size in shape[1:])


def _keep_sizes(node: fx.Node) -> int:
    source, sizes = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    was, now = source.meta["val"].shape, node.meta["val"].shape
    if len(was) != len(now):
        return 0
    for i, size in enumerate(sizes):
        if isinstance(size, fx.Node) and str(was[i]) == str(now[i]):
            sizes[i] = -1
    if sizes == list(node.args[1]):  # type: ignore[arg-type]
        return 0
    node.args = (source, sizes)
    return 1


def _infer_size(node: fx.Node) -> int:
    sizes = list(node.args[1])  # type: ignore[arg-type]
    read = [i for i, size in enumerate(sizes) if isinstance(size, fx.Node)]
    if len(read) != 1 or -1 in sizes:
        return 0
    sizes[read[0]] = -1
    node.args = (node.args[0], sizes)
    return 1


def _has_its_shape(user: fx.Node, small: set[fx.Node]) -> bool:
    """Whether an elementwise operator gets its shape from an input outside `small`."""
    target, now = user.target, user.meta.get("val")
    if (
        not isinstance(target, torch._ops.OpOverload)
        or torch.Tag.pointwise not in target.tags
        or not isinstance(now, Tensor)
    ):
        return False
    others = [i.meta.get("val") for i in user.all_input_nodes if i not in small]
    return any(isinstance(o, Tensor) and list(map(str, o.shape)) == list(map(str, now.shape)) for o in others)
