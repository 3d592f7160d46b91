from __future__ import annotations

import pytest
import torch
from graph_passes import count, folded, keeps
from torch import Tensor, nn

from jboost.export.graph.passes.input_gradients import flip_weights, split_strided


class One(nn.Module):
    def __init__(self, **kwargs: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(4, 6, bias=False, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(x)).sum((2, 3))


@pytest.mark.parametrize("size", [(12, 12), (13, 10)])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 1},
        {"kernel_size": 5, "padding": 1},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3, "groups": 2},
    ],
)
def test_stride_one_becomes_a_plain_convolution(kwargs: dict[str, int], size: tuple[int, int]) -> None:
    shape = (2, 4, *size)
    trunk = folded(One(**kwargs), shape)
    assert keeps(trunk, shape, flip_weights) == 1
    assert not any(n.args[6] for n in trunk.graph.nodes if "convolution" in str(n.target))


@pytest.mark.parametrize("form", ["phases", "merged"])
@pytest.mark.parametrize("size", [(12, 12), (13, 10), (15, 17)])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 7, "stride": 2, "padding": 3},
        {"kernel_size": 4, "stride": 4},
        {"kernel_size": 2, "stride": 3, "padding": 1},
        {"kernel_size": 5, "stride": 3, "padding": 0},
        {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2},
        {"kernel_size": (3, 1), "stride": (2, 1)},
    ],
)
def test_strided_becomes_plain_convolutions(kwargs: dict[str, int], size: tuple[int, int], form: str) -> None:
    shape = (2, 4, *size)
    trunk = folded(One(**kwargs), shape)
    assert keeps(trunk, shape, lambda m: split_strided(m, form)) == 1
    assert not any(n.args[6] for n in trunk.graph.nodes if "convolution" in str(n.target))


@pytest.mark.parametrize("stride", [2, (3, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_zeros_between_the_entries_of_a_map(stride: int, channels_last: bool) -> None:
    shape = (2, 4, 7, 8)
    trunk = folded(One(kernel_size=1, stride=stride), shape)
    assert keeps(trunk, shape, lambda m: split_strided(m, channels_last=channels_last)) == 1
    assert count(trunk)["permute"] == (2 if channels_last else 0)


def test_left_alone_on_request() -> None:
    trunk = folded(One(kernel_size=3, stride=2), (2, 4, 12, 12))
    assert split_strided(trunk, "transposed") == 0
    assert count(trunk)["convolution"] == 2


def test_cheapest_merges_the_phases_of_few_channels_only() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
            self.body = nn.Conv2d(8, 8, 3, 2, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.body(torch.tanh(self.stem(x)))).sum((2, 3))

    trunk = folded(Two(), (2, 3, 16, 16))
    assert keeps(trunk, (2, 3, 16, 16), lambda m: split_strided(m, "cheapest")) == 2
    # Two forward, one for the stem's 3 channels times 4 phases, four for the body's.
    assert count(trunk)["convolution"] == 2 + 1 + 4
