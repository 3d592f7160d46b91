"""Run the graph passes that suit a target, in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import fx

from .passes.fold_affine import fold_affine
from .passes.fold_constants import drop_no_ops, fold_constants, merge_duplicates
from .passes.input_gradients import Strided, flip_weights, split_strided
from .passes.relu_masks import relu_masks_as_products
from .passes.small_maps import patches_as_rows, small_maps_as_products
from .passes.stems import stems_over_phases
from .passes.winograd import winograd

#: ``"onnx"``: forms that ONNX Runtime and TensorRT read and run fast; ``"inductor"`` and ``"inductor-gpu"``: forms that Inductor
#: fuses best and runs fast on a CPU and on a GPU.
Target = Literal["onnx", "inductor", "inductor-gpu"]


@dataclass(frozen=True)
class Recipe:
    """Choices that differ between targets.

    Attributes:
        strided: form of strided input gradients.
        product_masks: write ReLU masks as products.
        small_maps: write convolutions over small maps as matrix products.
        channels_last: the target keeps its maps in channels-last order.
        stem_phases: write strided convolutions of few channels as convolutions over their input's phases.
    """

    strided: Strided
    product_masks: bool
    small_maps: bool
    channels_last: bool = False
    stem_phases: bool = False


RECIPES: dict[str, Recipe] = {
    "onnx": Recipe(strided="cheapest", product_masks=True, small_maps=True),
    "inductor": Recipe(strided="cheapest", product_masks=False, small_maps=True, channels_last=True),
    "inductor-gpu": Recipe(
        strided="cheapest", product_masks=False, small_maps=True, channels_last=True, stem_phases=True
    ),
}


def optimize(module: fx.GraphModule, target: Target = "onnx", recipe: Recipe | None = None) -> dict[str, int]:
    """Run every pass on a trunk or a gradient graph, in place.

    Args:
        module: result of `trace_trunk` or `attach_objective`.
        target: runtime whose forms to prefer.
        recipe: overrides `target`.

    Returns:
        Number of places changed, by pass.
    """
    recipe = recipe or RECIPES[target]
    strided = recipe.strided
    passes: list[Callable[[fx.GraphModule], int]] = [
        drop_no_ops,
        fold_constants,
        merge_duplicates,
        fold_affine,
        flip_weights,
    ]
    counts = {run.__name__: run(module) for run in passes}
    counts["split_strided"] = split_strided(module, strided, channels_last=recipe.channels_last)
    if recipe.stem_phases:
        counts["stems_over_phases"] = stems_over_phases(module)
    if recipe.small_maps:
        counts["small_maps_as_products"] = small_maps_as_products(module)
    if recipe.product_masks:
        counts["relu_masks_as_products"] = relu_masks_as_products(module)
    counts["drop_no_ops"] += drop_no_ops(module)
    counts["fold_constants"] += fold_constants(module)
    counts["merge_duplicates"] += merge_duplicates(module)
    return counts


def optimize_for_cpu(module: fx.GraphModule) -> dict[str, int]:
    """Run, in place, the further passes that pay off in float32 on a CPU.

    They leave half-precision convolutions alone, but not those that a half-precision trunk keeps in float32. They are not
    for GPUs, whose libraries choose between such algorithms themselves.

    Args:
        module: a trunk in its final precision with a fixed batch, after `optimize`.

    Returns:
        Number of places changed, by pass.
    """
    return {run.__name__: run(module) for run in (winograd, patches_as_rows)}
