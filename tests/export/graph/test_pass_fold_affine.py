from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from graph_models import Normalize, make
from graph_passes import count, folded, keeps
from torch import Tensor, nn

from jboost.export.graph.passes.fold_affine import fold_affine
from jboost.export.graph.passes.input_gradients import flip_weights

SHAPE = (2, 3, 24, 24)


def test_every_batch_norm_of_a_resnet_folds_both_ways() -> None:
    trunk = folded(make("resnet"), SHAPE)
    assert keeps(trunk, SHAPE, fold_affine) > 0
    kinds = count(trunk)
    assert kinds["mul"] == 0
    assert kinds["sub"] == 1  # the input's mean: a padded zero is not the mean, so it must stay
    assert kinds["div"] == 1  # of the global pooling's gradient


def test_a_pre_activation_network_keeps_the_scales_that_precede_a_relu() -> None:
    trunk = folded(make("preactivation"), SHAPE)
    keeps(trunk, SHAPE, fold_affine)
    assert count(trunk)["mul"] > 0


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_and_transposed_convolutions(groups: int, transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3, padding=1)
            self.norm0, self.norm1 = make("resnet").stem[1], nn.BatchNorm2d(6)
            self.norm0 = nn.BatchNorm2d(4)
            for norm in (self.norm0, self.norm1):
                nn.init.uniform_(norm.running_var, 0.5, 2)
                nn.init.uniform_(norm.weight, 0.5, 2)
            self.b = kind(4, 6, 3, padding=1, groups=groups)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.norm1(self.b(self.norm0(torch.tanh(self.a(x)))))).mean((2, 3))

    trunk = folded(Net().eval().requires_grad_(False), SHAPE)
    assert keeps(trunk, SHAPE, fold_affine) >= 3


def test_a_result_that_is_read_twice_is_left_alone() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            nn.init.uniform_(self.norm.weight, 0.5, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return (torch.tanh(self.norm(y)) + torch.sin(y)).mean((2, 3))

    trunk = folded(Net().eval().requires_grad_(False), SHAPE)
    keeps(trunk, SHAPE, fold_affine)
    assert count(trunk)["cos"] == 1


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("form", ["mean-std", "affine"])
def test_input_normalisation_folds_as_far_as_is_exact(padding: int, form: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.normalize, self.conv = Normalize(3), nn.Conv2d(3, 4, 3, padding=padding)

        def forward(self, x: Tensor) -> Tensor:
            x = self.normalize(x) if form == "mean-std" else x * 2 - 1
            return F.softplus(self.conv(x)).mean((2, 3))

    trunk = folded(Net().requires_grad_(False), SHAPE)
    assert keeps(trunk, SHAPE, fold_affine) > 0
    keeps(trunk, SHAPE, flip_weights)
    kinds = count(trunk)
    first = next(n for n in trunk.graph.nodes if n.op == "call_function")
    assert (str(first.target) == "aten.convolution.default") == (padding == 0)
    assert kinds["convolution"] == 2
