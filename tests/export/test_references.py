"""Verification computes what it compares graphs with once for a network, and compares every graph with the same."""

from __future__ import annotations

import pytest
import torch
from graph_models import make
from torch import Tensor

from jboost.engine.errors import FailureError
from jboost.export.verification import gradient
from jboost.export.verification.forward import verify_forward_graph
from jboost.export.verification.gradient import TOLERANCES, References, autograd, measure

SHAPE = (3, 16, 16)


@pytest.fixture
def model() -> torch.nn.Module:
    return make("preactivation").eval()


def run(model: torch.nn.Module, objective: str = "ce"):
    """Autograd in float32 as an artefact."""

    def compute(x, y) -> list[Tensor]:
        x, y = torch.from_numpy(x), torch.from_numpy(y)
        grad, logits, class_logit, loss = autograd(model, objective, x, y, None)
        return [grad, class_logit, loss, logits.argmax(1)]

    return compute


def test_a_second_graph_costs_no_autograd_and_has_the_same_figures(model, monkeypatch) -> None:
    how = {"objective": "ce", "shape": SHAPE, "batch_sizes": (4, 2)}
    alone = measure(run(model), model, **how)
    calls = []
    monkeypatch.setattr(gradient, "autograd", lambda *args: calls.append(args) or autograd(*args))
    references = References(model)
    assert measure(run(model), model, **how, references=references) == alone
    counted = len(calls)
    assert counted
    assert measure(run(model), model, **how, references=references) == alone
    assert len(calls) == counted
    # Another objective, batch or seed is another reference.
    for changed in ({"objective": "logit"}, {"fixed_batch": 5}, {"seed": 3}):
        how_else = how | changed
        objective = how_else["objective"]
        together = measure(run(model, objective), model, **how_else, references=references)
        assert together == measure(run(model, objective), model, **how_else)
        assert together != alone


def test_the_forward_pass_shares_the_logits(model, monkeypatch) -> None:
    references = References(model)
    measure(run(model), model, "ce", SHAPE, batch_sizes=(4, 2), references=references)

    def refuse(model) -> None:
        raise AssertionError("the logits are known")

    monkeypatch.setattr(gradient, "in_float64", refuse)
    how = {"tolerance": TOLERANCES["fp32"], "fixed_batch": None, "name": "forward"}
    forward = run(model)
    errors = verify_forward_graph(
        lambda x, y: (forward(x, y)[1], forward(x, y)[3]), model, SHAPE, **how, references=references
    )
    assert errors["logits_worst"] < 1e-5
    other = run(make("preactivation", seed=1).eval())
    with pytest.raises(FailureError, match="class logit error"):
        verify_forward_graph(lambda x, y: (other(x, y)[1], other(x, y)[3]), model, SHAPE, **how, references=references)


def test_a_wrong_gradient_fails_against_shared_references(model) -> None:
    references = References(model)
    measure(run(model), model, "ce", SHAPE, references=references)
    other = measure(run(make("preactivation", seed=1).eval()), model, "ce", SHAPE, references=references)
    with pytest.raises(FailureError, match="gradient error"):
        gradient.judge(other, TOLERANCES["fp32"])
