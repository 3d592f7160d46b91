from __future__ import annotations

import pytest
import torch
from graph_models import make
from graph_passes import count, keeps, trunk_of

from jboost.export.graph.dead_code import remove_dead_code
from jboost.export.graph.passes.fold_constants import drop_no_ops, fold_constants, merge_duplicates

SHAPE = (2, 3, 24, 24)


@pytest.mark.parametrize("name", ["resnet", "preactivation", "odd"])
def test_folding_constants_keeps_the_numbers(name: str) -> None:
    trunk = trunk_of(make(name), SHAPE)
    assert keeps(trunk, SHAPE, drop_no_ops) > 0
    assert keeps(trunk, SHAPE, fold_constants) > 0
    keeps(trunk, SHAPE, merge_duplicates)
    assert count(trunk)["rsqrt"] == (
        1 if name == "odd" else 0
    )  # GroupNorm's depends on the image, BatchNorm's does not
    assert count(trunk)["clone"] == count(trunk)["view"] == 0


def test_what_pooling_computes_twice_is_merged() -> None:
    trunk = trunk_of(make("resnet"), SHAPE)
    before = count(trunk)["slice"]
    drop_no_ops(trunk)
    keeps(trunk, SHAPE, merge_duplicates)
    assert count(trunk)["slice"] < before


def test_dead_code_takes_unused_weights_along() -> None:
    trunk = trunk_of(make("preactivation"), SHAPE)
    trunk.register_buffer("stray", torch.zeros(3))
    assert keeps(trunk, SHAPE, remove_dead_code) == 1
    assert not hasattr(trunk, "stray")
