"""Objectives against finite differences, torch's own functions, and each other's backends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jboost.engine.errors import BadInputError
from jboost.engine.method.objectives import OBJECTIVES, resolve_objective

L0 = 1.3


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def y() -> torch.Tensor:
    return torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradient_is_confirmed_by_finite_differences(name: str, logits: torch.Tensor, y: torch.Tensor) -> None:
    z = logits.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: OBJECTIVES[name](z, y, L0), (z,), eps=1e-6, atol=1e-7)


def test_values_are_those_of_the_equations(logits: torch.Tensor, y: torch.Tensor) -> None:
    f_c = logits[torch.arange(6), y]
    ce = F.cross_entropy(logits, y, reduction="none")
    # The BCE loss of a generated image (eq. 8), from torch's own definition: target 0.
    real = F.binary_cross_entropy_with_logits(f_c, torch.zeros_like(f_c), reduction="none")
    want = {
        "logit": -f_c,
        "ce": ce,
        "bce": -real,
        "ce-bce": ce - real,
        "joint": ce + 0.5 * (real - L0) ** 2,
        "energy": -torch.logsumexp(logits, 1),
    }
    assert set(want) == set(OBJECTIVES)
    for name, value in want.items():
        torch.testing.assert_close(OBJECTIVES[name](logits, y, L0), value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_numpy_and_torch_agree(name: str, logits: torch.Tensor, y: torch.Tensor) -> None:
    got = OBJECTIVES[name](logits.numpy(), y.numpy(), L0)
    np.testing.assert_allclose(got, OBJECTIVES[name](logits, y, L0).numpy(), rtol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_large_logits_stay_finite(name: str, y: torch.Tensor) -> None:
    z = (torch.tensor([[1e4, -1e4, 0.0, 1e4, -1e4]]).repeat(6, 1)).requires_grad_()
    loss = OBJECTIVES[name](z, y, L0)
    (grad,) = torch.autograd.grad(loss.sum(), z)
    assert torch.isfinite(loss).all()
    assert torch.isfinite(grad).all()


def test_softplus_has_the_sigmoid_as_derivative_at_zero(y: torch.Tensor) -> None:
    z = torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(OBJECTIVES["bce"](z, y, L0).sum(), z)
    assert grad[0, 0].item() == -0.5


def test_default_objective_follows_from_l0() -> None:
    assert resolve_objective(None, 1.0) == "joint"
    assert resolve_objective(None, None) == "bce"


def test_joint_without_l0_names_both_remedies() -> None:
    with pytest.raises(BadInputError, match=r"export.*--real.*--l0"):
        resolve_objective("joint", None)


def test_unknown_objective_lists_the_known() -> None:
    with pytest.raises(BadInputError, match="ce-bce"):
        resolve_objective("jiont", 1.0)
