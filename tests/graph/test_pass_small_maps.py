from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from jboost.export.graph.passes.input_gradients import flip_weights
from jboost.export.graph.passes.small_maps import small_maps_as_products

from .passes_helpers import count, folded, keeps


class One(nn.Module):
    def __init__(self, bias: bool, **kwargs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 6, bias=bias, **kwargs)

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
