from __future__ import annotations

from typing import Any

import pytest
import torch
from graph_passes import count, folded, keeps
from torch import Tensor, nn

from jboost.export.graph.passes.input_gradients import flip_weights
from jboost.export.graph.passes.winograd import matrices, winograd
from jboost.export.graph.precision import count_products, lower_precision
from jboost.export.graph.trace import trace_trunk


class Two(nn.Module):
    """A convolution between two that are not looked at, so that its input and output are maps of the graph's own."""

    def __init__(self, channels: int = 96, bias: bool = True, **kwargs: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        options: dict[str, Any] = {"kernel_size": 3, "padding": 1, "bias": bias} | kwargs
        self.first = nn.Conv2d(2, channels, 1)
        self.conv = nn.Conv2d(channels, channels + 16, **options)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(torch.tanh(self.first(x)))).sum((2, 3))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("size", "products"),
    [
        ((4, 4), 16),  # tiles of two
        ((4, 2), 16),
        ((8, 8), 36),  # tiles of four
        ((7, 7), 36),  # tiles that reach beyond the map
        ((8, 6), 36),
    ],
)
def test_a_convolution_and_its_input_gradient(size: tuple[int, int], products: int, bias: bool) -> None:
    shape = (2, 2, *size)
    trunk = folded(Two(bias=bias), shape)
    flip_weights(trunk)
    before = count(trunk)["convolution"]
    assert keeps(trunk, shape, winograd, tol=1e-11) == 2
    assert count(trunk)["convolution"] == before  # each is a 1x1 convolution over groups now
    kernels = [b.numel() // (96 * 112) for name, b in trunk.named_buffers() if name.endswith("_winograd")]
    assert kernels == [products, products]


def test_an_image_stays_its_own() -> None:
    """The tiles of all images are one map, and no image reads another's."""
    shape = (3, 2, 4, 4)
    trunk = folded(Two(), shape)
    flip_weights(trunk)
    g = torch.Generator().manual_seed(0)
    x, v = torch.rand(shape, generator=g, dtype=torch.float64), torch.ones((3, 112), dtype=torch.float64)
    assert winograd(trunk) == 2
    want = trunk(x, v)
    x[1], v[1] = float("nan"), float("inf")
    for a, b in zip(trunk(x, v), want, strict=True):
        assert torch.equal(a[::2], b[::2])
        assert not a[1].isfinite().any()


@pytest.mark.parametrize(
    ("kwargs", "size"),
    [
        ({}, (9, 8)),  # too many pixels
        ({}, (3, 5)),  # too much of the tiles would lie beyond the map
        ({"channels": 16}, (8, 8)),  # too few channels for the transforms
        ({"stride": 2}, (8, 8)),
        ({"dilation": 2, "padding": 2}, (4, 4)),
        ({"padding": 0}, (4, 4)),
        ({"groups": 2}, (4, 4)),
        ({"kernel_size": 1, "padding": 0}, (4, 4)),
        ({"kernel_size": (1, 3), "padding": (0, 1)}, (4, 4)),
    ],
)
def test_what_is_left_alone(kwargs: dict[str, Any], size: tuple[int, int]) -> None:
    shape = (2, 2, *size)
    trunk = folded(Two(**kwargs), shape)
    flip_weights(trunk)
    assert keeps(trunk, shape, winograd) == 0


@pytest.mark.parametrize(("kept", "changed"), [((), 0), (range(4), 2)])
def test_products_in_half_precision_are_left_alone(kept: Any, changed: int) -> None:
    """What stays in float32 in a half-precision graph is written as in a float32 one."""
    trunk = trace_trunk(Two(), torch.zeros(2, 2, 4, 4))
    flip_weights(trunk)
    assert count_products(trunk) == 4
    assert winograd(lower_precision(trunk, torch.bfloat16, float32=kept)) == changed


def test_a_dynamic_batch_is_left_alone() -> None:
    trunk = trace_trunk(Two().double(), torch.zeros(2, 2, 4, 4, dtype=torch.float64), dynamic_batch=True)
    assert winograd(trunk) == 0


@pytest.mark.parametrize("tile", [2, 4])
def test_matrices_filter(tile: int) -> None:
    """Against the definition: tile outputs of a filter of three."""
    inputs, kernel, outputs = matrices(tile)
    g = torch.Generator().manual_seed(tile)
    d = torch.randn(tile + 2, generator=g, dtype=torch.float64)
    w = torch.randn(3, generator=g, dtype=torch.float64)
    want = torch.stack([d[i : i + 3] @ w for i in range(tile)])
    torch.testing.assert_close(outputs @ ((kernel @ w) * (inputs @ d)), want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("size", [4, 8])
def test_digits_lost_in_float32(size: int) -> None:
    shape = (8, 2, size, size)
    exact = folded(Two(channels=128), shape)
    trunk = trace_trunk(Two(channels=128), torch.zeros(shape))
    flip_weights(trunk)
    g = torch.Generator().manual_seed(0)
    x, v = torch.rand(shape, generator=g), torch.randn((shape[0], 144), generator=g)
    want = exact(x.double(), v.double())

    def errors() -> list[float]:
        return [float((a - b).norm() / b.norm()) for a, b in zip(trunk(x, v), want, strict=True)]

    plain = errors()
    assert winograd(trunk) == 2
    for error, before in zip(errors(), plain, strict=True):
        assert error < 5 * before
