"""One image at a time on a CPU: no gradient that jboost takes from autograd meets torch's wrong one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jboost.bench import baselines
from jboost.bench.contestants import YARDSTICK, Entrant
from jboost.engine.backends.batch_of_one import at_least_two
from jboost.engine.backends.eager import runner as eager
from jboost.engine.backends.request import RunRequest
from jboost.engine.method.objectives import class_logit
from jboost.export.forward import _logits_and_gradient
from jboost.export.verification.gradient import autograd
from jboost.trainer.attack import Rater


class Tokens(nn.Module):
    """A BatchNorm before a map becomes tokens: its incoming gradient is channels-last, its input is not (LeViT's stem)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 4)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(torch.tanh(self.mix(tokens)).mean(1))


def plain(model: nn.Module, x: Tensor) -> Tensor:
    """d(logit of class 1) / dx by torch's autograd as it is."""
    x = x.detach().clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(x)[:, 1].sum(), x)
    return grad


@pytest.fixture(scope="module")
def model() -> Tokens:
    return Tokens()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def want(model: nn.Module, x: Tensor) -> Tensor:
    """The right gradient: in float64, from a batch of two."""
    return plain(Tokens().double(), torch.cat([x, x]).double())[:1].float()


def close(got: Tensor, want: Tensor) -> bool:
    return got.shape == want.shape and bool((got - want).norm() < 1e-5 * want.norm())


def test_torch_still_needs_the_workaround(model: nn.Module, x: Tensor, want: Tensor) -> None:
    if close(plain(model, x), want):
        pytest.fail(
            f"torch {torch.__version__} differentiates BatchNorm2d of one image correctly: remove the workaround "
            "engine/backends/batch_of_one.py, its callers' lines and this file, and require this torch in pyproject.toml"
        )


def test_batches_of_two_are_right(model: nn.Module, x: Tensor, want: Tensor) -> None:
    assert close(plain(model, torch.cat([x, x]))[:1], want)
    assert at_least_two(torch.cat([x, x])).shape[0] == 2
    assert at_least_two(torch.rand(5, 1)).shape[0] == 5


def test_the_eager_engine_is_right(model: nn.Module, x: Tensor, want: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eager, "load_forward", lambda bundle, device: model)
    runner = eager.EagerRunner(SimpleNamespace(config=SimpleNamespace(num_classes=4)), RunRequest("logit", None, 12))
    found = runner.gradient(x, torch.tensor([1]))
    assert close(-found.grad, want)  # the objective `logit` is -f_c
    logits = model(x)
    assert torch.allclose(found.class_logit, logits[:, 1])
    assert found.loss.shape == found.predicted.shape == (1,)


def test_references_are_right(model: nn.Module, x: Tensor, want: Tensor) -> None:
    grad, logits, f_c, loss = autograd(model, "logit", x, torch.tensor([1]), None)
    assert close(-grad, want)
    assert logits.shape == (1, 4)
    assert f_c.shape == loss.shape == (1,)
    # The check of forward.pt2: its logits are those of a batch of one, its gradient is right.
    seen: list[int] = []
    handle = model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    logits, grad = _logits_and_gradient(model, x)
    handle.remove()
    assert sorted(seen) == [1, 2]
    assert logits.shape == (1, 4)
    exact = _logits_and_gradient(Tokens().double(), torch.cat([x, x]).double())[1][:1].float()
    assert close(grad, exact)


def test_what_the_benchmark_compares_with_is_right(
    model: nn.Module, x: Tensor, want: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(baselines, "load_forward", lambda bundle, device: model)
    inputs = x.numpy(), np.array([1])
    work = SimpleNamespace(
        open=lambda: SimpleNamespace(config=None),
        inputs=lambda config: inputs,
        objective="logit",
        l0=None,
        device="cpu",
    )
    found = Entrant(YARDSTICK, work).gradient()
    assert close(-torch.from_numpy(found), want)


def test_the_attack_on_one_image_is_right(model: nn.Module, x: Tensor, want: Tensor) -> None:
    grad, score = Rater(model, class_logit).gradient(x, torch.tensor([1]))
    assert close(grad, want)
    assert score.shape == (1,)
