from __future__ import annotations

import pytest
import torch
from graph_models import make
from graph_passes import count, folded, keeps

from jboost.export.graph.operators import relu_mask
from jboost.export.graph.passes.relu_masks import relu_masks_as_products

SHAPE = (2, 3, 24, 24)


@pytest.mark.parametrize(("name", "masks"), [("resnet", 10), ("preactivation", 3), ("odd", 0)])
def test_masks_become_products_without_recomputation(name: str, masks: int) -> None:
    trunk = folded(make(name), SHAPE)
    relus = count(trunk)["relu"]
    assert keeps(trunk, SHAPE, relu_masks_as_products, 0.0) == masks
    assert count(trunk)["jboost"] == masks
    assert count(trunk)["relu"] == relus


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_mask_is_exact_for_the_smallest_activation(dtype: torch.dtype) -> None:
    tiny = torch.finfo(dtype).tiny
    y = torch.tensor([0.0, tiny, 1.0, torch.finfo(dtype).max], dtype=dtype)
    assert relu_mask(y).tolist() == [0.0, 1.0, 1.0, 1.0]
    assert relu_mask(y).dtype == dtype
