from __future__ import annotations

import pytest
import torch
from graph_passes import count, folded, keeps
from torch import Tensor, nn

from jboost.export.graph.passes.stems import stems_over_phases


class Stem(nn.Module):
    def __init__(self, channels: int, **kwargs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(channels, 6, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(x)).sum((2, 3))


@pytest.mark.parametrize("size", [(12, 12), (13, 10), (15, 17), (32, 32)])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"kernel_size": 7, "stride": 2, "padding": 3},
        {"kernel_size": 7, "stride": 2, "padding": 3, "bias": False},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 5, "stride": 2, "padding": 0},
        {"kernel_size": 6, "stride": 2, "padding": 5},
        {"kernel_size": (3, 5), "stride": 2, "padding": (0, 2)},
    ],
)
def test_a_strided_stem_reads_the_phases_of_its_input(kwargs: dict[str, int], size: tuple[int, int]) -> None:
    shape = (2, 3, *size)
    trunk = folded(Stem(3, **kwargs), shape)
    assert keeps(trunk, shape, stems_over_phases) == 1
    strides = [n.args[3] for n in trunk.graph.nodes if "convolution" in str(n.target) and not n.args[6]]
    assert strides == [[1, 1]]


def test_one_channel_has_room_for_larger_strides() -> None:
    shape = (2, 1, 14, 14)
    assert keeps(folded(Stem(1, kernel_size=5, stride=3, padding=1), shape), shape, stems_over_phases) == 1


@pytest.mark.parametrize(
    ("channels", "kwargs"),
    [
        (3, {"kernel_size": 3, "padding": 1}),
        (8, {"kernel_size": 3, "stride": 2}),
        (3, {"kernel_size": 4, "stride": 4}),
        (3, {"kernel_size": 1, "stride": 2}),
        (3, {"kernel_size": 3, "stride": (2, 1)}),
        (3, {"kernel_size": 3, "stride": 2, "dilation": 2}),
        (3, {"kernel_size": 3, "stride": 2, "groups": 3}),
    ],
)
def test_left_alone(channels: int, kwargs: dict[str, int]) -> None:
    trunk = folded(Stem(channels, **kwargs), (2, channels, 16, 16))
    assert stems_over_phases(trunk) == 0
    assert count(trunk)["convolution"] == 2
