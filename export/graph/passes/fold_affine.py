"""Fold per-channel scales and shifts into neighbouring convolutions.

When this pass runs, BatchNorm is x * scale + shift and its gradient is g * scale, so both directions fold by the same
rules:

    conv(x) * s            -> conv with its output channels scaled       (BatchNorm forward; input normalisation backward)
    conv(x) + t            -> conv with a bias
    conv(x * s)            -> conv with its input channels scaled        (BatchNorm backward; input normalisation forward)
    conv(x + t)            -> conv with a bias, only without zero padding: with it, padded zeros would have to become t
    conv(x * s + t)        -> conv'(x + t / s): the padded zeros stay zeros
    mask(conv(x)) * s      -> mask(conv(x) * s)                          (pre-activation networks, backward)

If a convolution's result has other users, or a BatchNorm precedes a ReLU, the scale and shift stay.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from jboost.export.graph.convolutions import Convolution, aten, per_channel, read_convolution
from jboost.export.graph.rewriter import Rewriter, arguments

_MUL, _DIV, _ADD, _SUB = aten.mul.Tensor, aten.div.Tensor, aten.add.Tensor, aten.sub.Tensor


def _operand(r: Rewriter, node: Any, channels: int | None = None) -> tuple[fx.Node, str, Tensor] | None:
    """Read x * s, x / s, x + t or x - t, constant per channel, as (x, "scale" or "shift", float64 [C]); else None."""
    if not isinstance(node, fx.Node) or node.target not in (_MUL, _DIV, _ADD, _SUB) or node.kwargs:
        return None
    a, b = arguments(node)
    if node.target in (_MUL, _ADD) and (not isinstance(a, fx.Node) or a.op == "get_attr"):
        a, b = b, a
    if not isinstance(a, fx.Node) or a.op == "get_attr" or a.meta["val"].dim() != 4:
        return None
    if list(map(str, a.meta["val"].shape)) != list(map(str, node.meta["val"].shape)):
        return None
    constant = per_channel(r, b, channels or int(a.meta["val"].shape[1]))
    if constant is None:
        return None
    if node.target is _DIV:
        return (a, "scale", 1.0 / constant) if bool((constant != 0).all()) else None
    if node.target is _SUB:
        return a, "shift", -constant
    return a, "scale" if node.target is _MUL else "shift", constant


def _rebuild(r: Rewriter, conv: Convolution, at: fx.Node, x: fx.Node, weight: Tensor, bias: Tensor | None) -> fx.Node:
    with r.before(at):
        b = None if bias is None else r.constant(bias.to(conv.weight.dtype), f"{conv.name}_bias")
        return r.call(
            aten.convolution.default, x, r.constant(weight, conv.name), b, list(conv.stride), list(conv.padding),
            list(conv.dilation), conv.transposed, list(conv.output_padding), conv.groups,
        )  # fmt: skip


def _after(r: Rewriter, node: fx.Node) -> bool:
    """Fold conv(x) * s and conv(x) + t."""
    found = _operand(r, node)
    conv = read_convolution(r, found[0]) if found else None
    if found is None or conv is None or len(conv.node.users) != 1:
        return False
    _, kind, c = found
    if kind == "scale":
        new = _rebuild(
            r, conv, node, conv.input, conv.scaled(out_scale=c), None if conv.bias is None else conv.bias * c
        )
    else:
        new = _rebuild(r, conv, node, conv.input, conv.weight, c if conv.bias is None else conv.bias.double() + c)
    r.replace(node, new)
    return True


def _only_convolved(r: Rewriter, node: fx.Node) -> bool:
    """Whether every user of `node` is a convolution that reads it as its input; folding then removes the node."""
    readers = [read_convolution(r, user) for user in node.users]
    return all(c is not None and c.input is node for c in readers)


def _before(r: Rewriter, conv: Convolution) -> bool:
    """Fold conv(x * s), conv(x + t) and conv(x * s + t)."""
    found = _operand(r, conv.input)
    if found is None or not _only_convolved(r, conv.input):
        return False
    x, kind, c = found
    if kind == "scale":
        r.replace(conv.node, _rebuild(r, conv, conv.node, x, conv.scaled(in_scale=c), conv.bias))
        return True
    if not conv.transposed and not any(conv.padding):
        shift = conv.scaled(in_scale=c).double().sum((1, 2, 3))
        bias = shift if conv.bias is None else conv.bias.double() + shift
        r.replace(conv.node, _rebuild(r, conv, conv.node, x, conv.weight, bias))
        return True
    inner = _operand(r, x)
    if inner is None or inner[1] != "scale" or len(x.users) != 1 or bool((inner[2] == 0).any()):
        return False
    base, _, scale = inner
    with r.before(conv.input):
        shift = (c / scale).to(conv.weight.dtype).reshape(1, -1, 1, 1)
        moved = r.call(_ADD, base, r.constant(shift, f"{conv.name}_shift"))
        scaled = r.call(_MUL, moved, r.constant(scale.to(conv.weight.dtype).reshape(1, -1, 1, 1), f"{conv.name}_scale"))
    r.replace(conv.input, scaled)
    return True


def _through_mask(r: Rewriter, node: fx.Node) -> bool:
    """Rewrite mask(conv(x)) * s as mask(conv(x) * s)."""
    found = _operand(r, node)
    if found is None or found[1] != "scale":
        return False
    where = found[0]
    if where.target is not aten.where.self or len(where.users) != 1:
        return False
    condition, chosen, other = arguments(where)
    zero = r.value(chosen)
    if zero is None or bool((zero != 0).any()) or read_convolution(r, other) is None or len(other.users) != 1:
        return False
    with r.before(node):
        dtype = where.meta["val"].dtype
        scale = r.constant(found[2].to(dtype).reshape(1, -1, 1, 1), f"{node.name}_scale")
        r.replace(node, r.call(aten.where.self, condition, chosen, r.call(_MUL, other, scale)))
    return True


def fold_affine(module: fx.GraphModule) -> int:
    """Apply the rules above until none applies. New weights are computed in float64 and rounded once.

    Returns:
        The number of foldings.
    """
    total = 0
    while True:
        r = Rewriter(module)
        for node in list(r.graph.nodes):
            if node.op != "call_function" or not node.users:
                continue
            if not (_after(r, node) or _through_mask(r, node)):
                conv = read_convolution(r, node)
                if conv is not None:
                    _before(r, conv)
        changed = r.changed
        r.done()
        if not changed:
            return total
        total += changed
