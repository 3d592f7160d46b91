from __future__ import annotations

from typing import Any

import pytest
import torch
from graph_passes import count, folded, keeps
from torch import Tensor, nn

from jboost.export.graph.passes.input_gradients import flip_weights
from jboost.export.graph.passes.small_maps import patches_as_rows, small_maps_as_products
from jboost.export.graph.trace import trace_trunk


class One(nn.Module):
    def __init__(self, bias: bool, inputs: int = 4, outputs: int = 6, **kwargs: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(inputs, outputs, bias=bias, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(x)).sum((2, 3))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kwargs", "size", "changed"),
    [
        ({"kernel_size": 1}, (2, 2), 2),  # the convolution and its input gradient
        ({"kernel_size": 1}, (3, 5), 2),
        ({"kernel_size": 1}, (4, 4), 0),  # enough pixels for a convolution
        (
            {"kernel_size": 1, "stride": 2},
            (4, 5),
            1,
        ),  # the gradient of a strided one stays what another pass makes of it
        ({"kernel_size": 3, "padding": 1}, (2, 2), 2),
        ({"kernel_size": 3, "padding": 1}, (1, 2), 2),
        ({"kernel_size": 3, "padding": 1}, (3, 3), 0),  # as many pixels as taps: nothing is saved
        ({"kernel_size": 3, "padding": 1, "stride": 2}, (2, 2), 1),
        ({"kernel_size": 3, "padding": 2, "dilation": 2}, (2, 2), 2),
        ({"kernel_size": 7, "padding": 3}, (6, 6), 0),  # the matrix would be 26 times the kernel
        ({"kernel_size": 3, "padding": 1, "groups": 2}, (2, 2), 0),
    ],
)
def test_small_maps(kwargs: dict[str, int], size: tuple[int, int], changed: int, bias: bool) -> None:
    shape = (2, 4, *size)
    trunk = folded(One(bias, **kwargs), shape)
    flip_weights(trunk)
    before = count(trunk)["convolution"]
    assert keeps(trunk, shape, small_maps_as_products) == changed
    assert count(trunk)["convolution"] == before - changed


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kwargs", "size", "changed"),
    [
        ({"kernel_size": 3, "padding": 1}, (4, 4), 2),  # the convolution and its input gradient
        ({"kernel_size": 3, "padding": 1, "stride": 2}, (5, 7), 1),  # a strided gradient is another pass's business
        ({"kernel_size": (2, 3), "padding": (0, 2), "dilation": (2, 1)}, (4, 3), 2),
        ({"kernel_size": 3}, (6, 6), 1),  # 4x4 pixels, of which the gradient makes 6x6
        ({"kernel_size": 3, "padding": 1}, (4, 5), 0),  # enough pixels for a convolution
        ({"kernel_size": 3, "padding": 1, "outputs": 60}, (4, 4), 1),  # too few channels: gathering takes as long
        ({"kernel_size": 1}, (2, 2), 0),  # is a product already
        ({"kernel_size": 3, "padding": 1, "groups": 2}, (2, 2), 0),
    ],
)
def test_patches(kwargs: dict[str, Any], size: tuple[int, int], changed: int, bias: bool) -> None:
    shape = (2, 148, *size)
    trunk = folded(One(bias, **{"inputs": 148, "outputs": 150} | kwargs), shape)
    flip_weights(trunk)
    before = count(trunk)["convolution"]
    assert keeps(trunk, shape, patches_as_rows) == changed
    assert count(trunk)["convolution"] == before - changed


def test_patches_need_a_fixed_batch() -> None:
    example = torch.zeros(2, 64, 4, 4, dtype=torch.float64)
    trunk = trace_trunk(One(True, 64, 64, kernel_size=3, padding=1).double(), example, dynamic_batch=True)
    assert patches_as_rows(trunk) == 0
