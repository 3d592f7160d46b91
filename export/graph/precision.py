"""float16 and bfloat16 variants of a trunk: convolutions and matrix products in half precision, the rest in float32.

Inputs, outputs, reductions, exponentials and the logits stay float32. In float16 gradients would underflow, so the
backward half runs on a cotangent scaled image by image, v * S / max|v|, and its result is scaled back. The input
gradient is linear in v, so this is exact. It also makes the range that float16 must hold independent of the objective
(near its optimum, ``joint`` has very small cotangents). S, the loss scale, is a power of two, chosen at export from the
largest value of the backward half.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from jboost.engine.backends.torch_device import TORCH_DTYPES
from jboost.engine.errors import BadInputError

from .passes.fold_constants import drop_no_ops, fold_constants, merge_duplicates
from .rewriter import Rewriter, results

aten = torch.ops.aten

_PRODUCTS = {aten.convolution.default, aten.mm.default, aten.bmm.default, aten.addmm.default, aten.baddbmm.default}

# Base names, for all overloads: reductions, and functions that lose their meaning at eight to eleven bits of precision.
_FLOAT32 = {
    "sum", "mean", "var", "var_mean", "std", "prod", "cumsum", "logsumexp", "norm", "linalg_vector_norm", "exp", "expm1", "log",
    "log1p", "log2", "sqrt", "rsqrt", "reciprocal", "pow", "erf", "tanh", "sigmoid", "softplus", "gelu", "silu", "_softmax",
    "_log_softmax", "sin", "cos", "div", "atan2", "native_layer_norm", "native_group_norm",
}  # fmt: skip

_LARGEST_HALF = 65504.0

# Factor between the largest value seen at export and overflow, as room for unseen images.
_HEADROOM = 32.0


@dataclass(frozen=True)
class Scale:
    """A loss scale and the values it was chosen from.

    Attributes:
        loss_scale: power of two that multiplies the (normalised) cotangent.
        largest_forward: largest activation on the probe images.
        largest_backward: largest entry of the backward half per unit of cotangent.
    """

    loss_scale: float
    largest_forward: float
    largest_backward: float


class _Extremes(fx.Interpreter):
    """Run a trunk and record the largest absolute values of its forward half and of its backward half."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.forward_max = self.backward_max = 0.0
        self._backward: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if (n.op == "placeholder" and n.target == "v") or any(i in self._backward for i in n.all_input_nodes):
            self._backward.add(n)
        if n.op == "call_function" and isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            finite = value[value.isfinite()].abs()  # max-pooling pads with minus infinity
            top = float(finite.max()) if finite.numel() else 0.0
            if n in self._backward:
                self.backward_max = max(self.backward_max, top)
            else:
                self.forward_max = max(self.forward_max, top)
        return value


def filled_batches(trunk: fx.GraphModule, x: Tensor, v: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Split `x` [N, C, H, W] and `v` [N, K] into batches of the graph's size; yield (count, images, vectors).

    Use only the first `count` rows of a batch: repeated rows fill the last one. A graph with an open batch takes all
    rows at once.
    """
    size = trunk.graph.find_nodes(op="placeholder", target="x")[0].meta["val"].shape[0]
    size = size if isinstance(size, int) else len(x)
    for start in range(0, len(x), size):
        count = min(size, len(x) - start)
        rows = start + torch.arange(size) % count
        yield count, x[rows], v[rows]


def choose_scale(trunk: fx.GraphModule, probes: Sequence[Tensor]) -> Scale:
    """Choose the loss scale of a float16 variant.

    Args:
        trunk: float32 trunk, optimised.
        probes: float32 batches [B, C, H, W] of images like those that the graph will see.

    Raises:
        BadInputError: the network's activations come too close to float16's largest number.
    """
    forward = backward = 0.0
    generator = torch.Generator().manual_seed(0)
    for x in probes:
        logits = results(trunk)[0].meta["val"]
        v = torch.rand((x.shape[0], int(logits.shape[1])), generator=generator) * 2 - 1
        one = torch.zeros_like(v)
        one[torch.arange(len(v)), torch.arange(len(v)) % v.shape[1]] = 1.0
        for cotangent in (v, one):  # dense like cross-entropy's, and sparse like a logit's; scaled to largest entry 1
            for _, images, vectors in filled_batches(trunk, x, cotangent / cotangent.abs().amax(1, keepdim=True)):
                run = _Extremes(trunk)
                run.run(images, vectors)
                forward, backward = max(forward, run.forward_max), max(backward, run.backward_max)
    if not math.isfinite(forward) or forward * 4 > _LARGEST_HALF:
        raise BadInputError(
            f"activations reach {forward:.3g}, too close to float16's largest number, 65504; export --dtype fp32, or --dtype bf16 "
            "--format compile"
        )
    exponent = math.floor(math.log2(_LARGEST_HALF / (_HEADROOM * max(backward, 1e-30))))
    return Scale(2.0 ** max(-14, min(exponent, 15)), forward, backward)


def _base_name(target: Any) -> str:
    return str(target._schema.name).split("::")[-1] if isinstance(target, torch._ops.OpOverload) else ""


def _copy(module: fx.GraphModule) -> fx.GraphModule:
    """Copy the graph; the copy shares the weights."""
    root = torch.nn.Module()
    for name, buffer in module.named_buffers(remove_duplicate=False):
        root.register_buffer(name, buffer)
    graph = fx.Graph()
    output = graph.graph_copy(module.graph, {})
    graph.output(output)
    return fx.GraphModule(root, graph, "Trunk")


def count_products(trunk: fx.GraphModule) -> int:
    """Count the convolutions and matrix products of a trunk."""
    return sum(node.target in _PRODUCTS for node in trunk.graph.nodes)


def lower_precision(
    trunk: fx.GraphModule, dtype: torch.dtype, loss_scale: float = 1.0, *, float32: Collection[int] = ()
) -> fx.GraphModule:
    """Copy a trunk to half precision, with the same float32 inputs and outputs.

    Args:
        trunk: float32 trunk, after `optimize`. It is not changed.
        dtype: torch.float16 or torch.bfloat16 (torch.float32 gives a plain copy).
        loss_scale: see `choose_scale`. The graph undoes it. Only float16 uses it.
        float32: indices, in the graph's order, of the products that stay in float32.

    Raises:
        BadInputError: the dtype is another one.
    """
    module = _copy(trunk)
    if dtype is torch.float32:
        return module
    if dtype not in (torch.float16, torch.bfloat16):
        raise BadInputError(f"no lower-precision variant in {dtype}; choose one of {', '.join(TORCH_DTYPES)}")
    r = Rewriter(module)
    x, v = (node for node in r.graph.nodes if node.op == "placeholder")
    output = r.graph.output_node()
    logits, grad = results(module)
    v_users = list(v.users)
    with r.before(next(n for n in r.graph.nodes if n.op not in ("placeholder", "get_attr"))):
        scaled, unscale = _scaled_cotangent(r, v, loss_scale) if dtype is torch.float16 else (v, None)
    for user in v_users:
        user.replace_input_with(v, scaled)
    frozen = {x, v, scaled, *scaled.all_input_nodes} | ({unscale} if unscale else set())
    kept = [node for node in r.graph.nodes if node.target in _PRODUCTS]
    _assign(r, dtype, logits, frozen, {node for i, node in enumerate(kept) if i in float32})
    with r.before(output):
        out_grad = _as_float32(r, grad)
        if unscale is not None:
            out_grad = r.call(aten.mul.Tensor, out_grad, unscale)
        output.args = ((_as_float32(r, logits), out_grad),)
    r.done()
    for run in (drop_no_ops, fold_constants, merge_duplicates):
        run(module)
    return module


def _as_float32(r: Rewriter, node: fx.Node) -> fx.Node:
    return node if node.meta["val"].dtype == torch.float32 else r.call(aten._to_copy.default, node, dtype=torch.float32)


def _scaled_cotangent(r: Rewriter, v: fx.Node, loss_scale: float) -> tuple[fx.Node, fx.Node]:
    """Return (v * S / max|v|, the factor [B, 1, 1, 1] that undoes it), per image; a zero cotangent stays zero."""
    top = r.call(aten.amax.default, r.call(aten.abs.default, v), [1], True)
    safe = r.call(aten.clamp.default, top, 1e-30)
    scaled = r.call(aten.div.Tensor, v, safe)
    scaled = r.call(aten.mul.Tensor, scaled, loss_scale)
    undo = r.call(aten.mul.Tensor, safe, 1.0 / loss_scale)
    return scaled, r.call(aten.unsqueeze.default, r.call(aten.unsqueeze.default, undo, 2), 3)


def _assign(r: Rewriter, low: torch.dtype, logits: fx.Node, frozen: set[fx.Node], float32: set[fx.Node]) -> None:
    """Give every node its dtype: `low` for products, float32 for sensitive operators, else its widest input's dtype."""
    casts: dict[tuple[fx.Node, torch.dtype], fx.Node] = {}

    def is_float(node: fx.Node) -> bool:
        value = node.meta.get("val")
        return isinstance(value, Tensor) and value.is_floating_point()

    def as_dtype(node: fx.Node, dtype: torch.dtype, user: fx.Node) -> fx.Node:
        if not is_float(node) or node.meta["val"].dtype == dtype:
            return node
        if (node, dtype) not in casts:
            with r.before(user):
                casts[node, dtype] = r.call(aten._to_copy.default, node, dtype=dtype)
        return casts[node, dtype]

    for node in list(r.graph.nodes):
        if node.op != "call_function" or node in frozen or not isinstance(node.meta.get("val"), (Tensor, tuple, list)):
            continue
        if node.target is operator.getitem:  # for example on the results of max-pooling with indices
            source: Any = node.args[0]
            node.meta["val"] = source.meta["val"][node.args[1]]
            continue
        inputs = [i for i in node.all_input_nodes if is_float(i)]
        computed = [i for i in inputs if i.op != "get_attr"]
        if node is logits or node in float32 or _base_name(node.target) in _FLOAT32:
            wanted = torch.float32
        elif node.target in _PRODUCTS:
            wanted = low
        elif computed:
            wanted = low if all(i.meta["val"].dtype == low for i in computed) else torch.float32
        else:
            continue  # computed from constants or sizes only
        node.args, node.kwargs = fx.node.map_arg((node.args, node.kwargs), partial(as_dtype, dtype=wanted, user=node))
        if node.kwargs.get("dtype") in (torch.float32, low) and is_float(node):
            node.kwargs = {**node.kwargs, "dtype": wanted}
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda i: i.meta["val"])
        node.meta["val"] = r.fake_call(node.target, args, kwargs)
