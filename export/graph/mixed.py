"""Choose the products of a half-precision graph that stay in float32 so that gradients keep their direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx

from jboost.engine.backends.torch_device import TORCH_DTYPES
from jboost.engine.method.compare import cosine

from .precision import choose_scale, count_products, filled_batches, lower_precision
from .rewriter import results

#: Smallest allowed cosine between a half-precision gradient and the float32 one, median over the probe images.
LEAST_COSINE = 0.99
# Neighbouring products are tested in groups: without them, a network with a hundred would be lowered and run a hundred
# times.
_GROUPS = 16


@dataclass(frozen=True)
class Lowered:
    """A trunk in its final precision.

    Attributes:
        trunk: see `lower_precision`.
        loss_scale: loss scale of the backward half; 1 unless the dtype is fp16.
        products: number of convolutions and matrix products.
        kept: number of products that stay in float32.
        cosine: cosine to the float32 gradient, median over the probe images.
        float32: indices of the products that stay in float32.
    """

    trunk: fx.GraphModule
    loss_scale: float
    products: int
    kept: int
    cosine: float
    float32: frozenset[int] = frozenset()

    def applied_to(self, trunk: fx.GraphModule, dtype: str) -> Lowered:
        """Lower `trunk`, the same network's float32 trunk at another batch size, to `dtype` with the same choices."""
        low = lower_precision(trunk, TORCH_DTYPES[dtype], self.loss_scale, float32=set(self.float32))
        return replace(self, trunk=low)

    def figures(self) -> dict[str, float]:
        """Return the figures as they stand in a bundle's ``config.json``; empty for float32."""
        if self.cosine == 1.0 and not self.kept:
            return {}
        return {"cosine_to_fp32": self.cosine, "products": self.products, "products_in_fp32": self.kept}


def lower(trunk: fx.GraphModule, dtype: str, probes: Sequence[Tensor], least: float = LEAST_COSINE) -> Lowered:
    """Lower a trunk to half precision; products whose rounding turns the gradient stay in float32.

    If the median cosine reaches `least` with all products lowered, none stays in float32. Otherwise each group of
    neighbouring products is lowered alone to measure its effect. The costliest groups then stay in float32, as few as
    bring the median cosine to `least`.

    Args:
        trunk: float32 trunk, after `optimize`. It is not changed.
        dtype: ``"fp16"`` or ``"bf16"`` (``"fp32"`` gives a plain copy).
        probes: float32 batches [B, C, H, W] of images like those that the graph will see.
        least: median cosine to reach.

    Raises:
        BadInputError: the network's activations come too close to float16's largest number.
    """
    count = count_products(trunk)
    if dtype == "fp32":
        return Lowered(lower_precision(trunk, TORCH_DTYPES[dtype]), 1.0, count, 0, 1.0)
    scale = choose_scale(trunk, probes).loss_scale if dtype == "fp16" else 1.0
    want = _gradients(trunk, probes)

    def attempt(float32: set[int]) -> Lowered:
        low = lower_precision(trunk, TORCH_DTYPES[dtype], scale, float32=float32)
        got = _gradients(low, probes)
        median = cosine(got, want).nan_to_num(-1.0).median()
        return Lowered(low, scale, count, len(float32), float(median), frozenset(float32))

    low = attempt(set())
    if low.cosine >= least:
        return low
    size = -(-count // _GROUPS)
    everything = set(range(count))
    groups = [set(range(start, min(start + size, count))) for start in range(0, count, size)]
    alone = [attempt(everything - group).cosine for group in groups]
    costly = [groups[i] for i in sorted(range(len(groups)), key=alone.__getitem__)]
    # Bisect for the smallest number of groups that suffices; all of them do.
    few, enough = 0, len(costly)
    low = attempt(everything)
    while few + 1 < enough:
        middle = (few + enough) // 2
        tried = attempt(set().union(*costly[:middle]))
        if tried.cosine >= least:
            enough, low = middle, tried
        else:
            few = middle
    return low


def _gradients(trunk: fx.GraphModule, probes: Sequence[Tensor]) -> Tensor:
    """Compute vector-Jacobian products of random vectors, float64 [images, C*H*W]; the same vectors at every call."""
    generator = torch.Generator().manual_seed(0)
    classes = int(results(trunk)[0].meta["val"].shape[1])
    rows = []
    with torch.no_grad():
        for x in probes:
            v = torch.randn(len(x), classes, generator=generator)
            for count, images, vectors in filled_batches(trunk, x, v):
                rows.append(trunk(images, vectors)[1][:count].double().flatten(1))
    return torch.cat(rows)
