"""Running passes on a float64 graph: the numbers must stay what they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from jboost.export.graph.passes.fold_constants import drop_no_ops, fold_constants, merge_duplicates
from jboost.export.graph.trace import trace_trunk

aten = torch.ops.aten


def trunk_of(model: nn.Module, shape: tuple[int, ...]) -> fx.GraphModule:
    return trace_trunk(model.double(), torch.zeros(shape, dtype=torch.float64))


def folded(model: nn.Module, shape: tuple[int, ...]) -> fx.GraphModule:
    trunk = trunk_of(model, shape)
    for run in (drop_no_ops, fold_constants, merge_duplicates):
        run(trunk)
    return trunk


def results(trunk: fx.GraphModule, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.rand(shape, generator=g, dtype=torch.float64)
    logits = trunk.graph.output_node().args[0][0].meta["val"]
    v = torch.randn(tuple(logits.shape), generator=g, dtype=torch.float64)
    return trunk(x, v)


def keeps(
    trunk: fx.GraphModule, shape: tuple[int, ...], run: Callable[[fx.GraphModule], int], tol: float = 1e-12
) -> int:
    """Run a pass, check that the results stay, and return how many places it changed."""
    before = results(trunk, shape)
    changed = run(trunk)
    for a, b in zip(results(trunk, shape), before, strict=True):
        assert (a - b).norm() <= tol * b.norm()
    return changed


def count(trunk: fx.GraphModule) -> Counter[str]:
    return Counter(
        str(n.target).removeprefix("aten.").split(".")[0] for n in trunk.graph.nodes if n.op == "call_function"
    )
