from __future__ import annotations

from typing import Any

import pytest
import torch
from graph_gradients import graph_run
from graph_models import make
from torch import nn

from jboost.engine.errors import BadInputError
from jboost.export.compiled.packages import Compiler
from jboost.export.graph import attach_objective, choose_scale, lower, lower_precision, optimize, trace_trunk
from jboost.export.verification.gradient import TOLERANCES, check_images, judge, measure

SHAPE = (4, 3, 32, 32)


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_trained_network_keeps_its_gradient(trained: nn.Module, dtype: str) -> None:
    trunk = trace_trunk(trained, torch.zeros(SHAPE))
    optimize(trunk)
    scale = choose_scale(trunk, check_images(4, SHAPE[1:], 7))
    low = torch.float16 if dtype == "fp16" else torch.bfloat16
    gradient = attach_objective(lower_precision(trunk, low, scale.loss_scale), "joint", 1.5)
    figures = measure(graph_run(gradient), trained, "joint", SHAPE[1:], l0=1.5)
    judge(figures, TOLERANCES[dtype])
    x, y = torch.rand(SHAPE), torch.zeros(4, dtype=torch.int64)
    grad, class_logit, loss, predicted = gradient(x, y)
    assert grad.dtype == class_logit.dtype == loss.dtype == torch.float32
    assert predicted.dtype == torch.int64


def test_the_float32_trunk_is_left_as_it_was() -> None:
    trunk = trace_trunk(make("resnet"), torch.zeros(SHAPE))
    optimize(trunk)
    x, v = torch.rand(SHAPE), torch.rand(4, 10)
    before = trunk(x, v)
    lower_precision(trunk, torch.float16, 8.0)
    assert all(torch.equal(a, b) for a, b in zip(trunk(x, v), before, strict=True))


@pytest.mark.parametrize("name", ["convnext", "vit"])
def test_delicate_operators_stay_float32(name: str) -> None:
    trunk = trace_trunk(make(name), torch.zeros(2, 3, 16, 16))
    optimize(trunk)
    half = lower_precision(trunk, torch.float16, 1.0)
    dtypes: dict[str, set[torch.dtype]] = {"product": set(), "delicate": set()}
    for node in half.graph.nodes:
        target = str(node.target)
        if any(word in target for word in ("aten.exp.", "aten.rsqrt", "aten.mean", "aten.sum", "aten.erf")):
            dtypes["delicate"].add(node.meta["val"].dtype)
        if "convolution" in target or "aten.bmm" in target:
            dtypes["product"].add(node.meta["val"].dtype)
    assert dtypes == {"product": {torch.float16}, "delicate": {torch.float32}}


def test_tiny_gradients_do_not_underflow() -> None:
    """Ten orders of magnitude below float16's smallest number, and image by image."""
    model = make("convnext")
    trunk = trace_trunk(model, torch.zeros(2, 3, 16, 16))
    optimize(trunk)
    scale = choose_scale(trunk, check_images(2, (3, 16, 16), 7))
    half = lower_precision(trunk, torch.float16, scale.loss_scale)
    x, v = torch.rand(2, 3, 16, 16), torch.randn(2, 10)
    tiny = v * torch.tensor([[1e-18], [1.0]])
    want, got = trunk(x, tiny)[1], half(x, tiny)[1]
    for a, b in zip(got, want, strict=True):
        assert (a - b).norm() < 0.01 * b.norm()
    assert torch.count_nonzero(half(x, torch.zeros_like(v))[1]) == 0


def test_activations_beyond_float16_are_refused_with_the_remedy() -> None:
    model = make("resnet")
    model.stem[1].weight.mul_(1e6)
    trunk = trace_trunk(model, torch.zeros(SHAPE))
    with pytest.raises(BadInputError, match="bf16"):
        choose_scale(trunk, check_images(4, SHAPE[1:], 7))
    with pytest.raises(BadInputError, match="fp16"):
        lower_precision(trunk, torch.int8)


class Touchy(nn.Module):
    """Its middle layer sees large numbers that nearly cancel, which eight bits of mantissa cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.touchy = nn.Conv2d(16, 16, 1)
        self.touchy.weight.data[:, 8:] = -self.touchy.weight.data[:, :8] * (1 + 2.0**-9)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.first(x))
        h = torch.cat((h[:, :8], h[:, :8] + 0.01 * h[:, 8:]), 1)
        return self.head(torch.tanh(self.last(torch.sin(60 * self.touchy(h)))).mean((2, 3)))


def test_products_stay_in_float32_where_the_direction_would_be_lost() -> None:
    trunk = trace_trunk(Touchy(), torch.zeros(SHAPE))
    optimize(trunk)
    probes = check_images(4, SHAPE[1:], 7)
    plain = lower(trunk, "bf16", probes, least=-1.0)
    mixed = lower(trunk, "bf16", probes)
    assert plain.kept == 0
    assert plain.cosine < 0.98
    assert mixed.cosine >= 0.99
    assert 0 < mixed.kept < mixed.products  # not more than needed
    assert mixed.figures()["products_in_fp32"] == mixed.kept
    x, v = torch.rand(SHAPE), torch.randn(4, 5)
    want, got = trunk(x, v)[1].flatten(1), mixed.trunk(x, v)[1].flatten(1)
    assert torch.cosine_similarity(got, want).median() > 0.98  # on images that the choice did not see


def test_a_trained_network_is_lowered_throughout(trained: nn.Module) -> None:
    trunk = trace_trunk(trained, torch.zeros(SHAPE))
    optimize(trunk)
    low = lower(trunk, "fp16", check_images(4, SHAPE[1:], 7))
    assert low.kept == 0
    assert lower(trunk, "fp32", ()).figures() == {}


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_fixed_batch_is_judged_by_the_same_images_whatever_its_size(dtype: str) -> None:
    """A graph takes batches of its own size alone: vision transformers have it in their reshapes."""
    model, probes = make("vit"), check_images(4, (3, 16, 16), 7)

    def lowered(batch: int) -> tuple[float, float]:
        trunk = trace_trunk(model, torch.zeros(batch, 3, 16, 16))
        optimize(trunk)
        low = lower(trunk, dtype, probes)
        return low.loss_scale, low.cosine

    scale, cosine = lowered(4)
    for batch in (1, 3, 8):
        assert lowered(batch) == (scale, pytest.approx(cosine, abs=1e-6))


@pytest.mark.parametrize("batch", [1, 6])
def test_the_graph_for_a_gpu_is_autograd_too(batch: int) -> None:
    """As `Compiler` lowers it, run here by torch: what its packages are made of, on any machine."""
    model = make("resnet").requires_grad_(False)
    for dtype in ("fp32", "fp16"):
        trunk = Compiler(model, (3, 33, 33), batch, None, "cuda").lowered(dtype).trunk
        # No scatter, which is atomic there.
        assert any("_unsafe_index" in str(node.target) for node in trunk.graph.nodes)
        run = graph_run(attach_objective(trunk, "joint", 1.5))
        figures = measure(run, model, "joint", (3, 33, 33), l0=1.5, batch_sizes=(1,), fixed_batch=batch)
        judge(figures, TOLERANCES[dtype])


class _Dtypes(torch.fx.Interpreter):
    """Holds each value against the dtype that its node was given when the graph was lowered."""

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function":
            assert dtypes_of(value) == dtypes_of(n.meta["val"]), n.format_node()
        return value


def dtypes_of(value: Any) -> Any:
    return [dtypes_of(v) for v in value] if isinstance(value, (tuple, list)) else getattr(value, "dtype", type(value))


@pytest.mark.parametrize("pooling", ["shifted", "scatter", "gather"])
@pytest.mark.parametrize("name", ["resnet", "flat", "vit", "odd"])
def test_every_value_is_of_the_dtype_that_its_node_says(name: str, pooling: str) -> None:
    """Else two operands of a product can differ, as they did where max-pooling's output went into a linear layer."""
    pooled_then_flat = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(128, 10))
    model = pooled_then_flat if name == "flat" else make(name)
    trunk = trace_trunk(model.eval().requires_grad_(False), torch.zeros(2, 3, 16, 16), pooling=pooling)
    optimize(trunk, "inductor")
    for low in (torch.float16, torch.bfloat16):
        _Dtypes(lower_precision(trunk, low, 2.0)).run(torch.rand(2, 3, 16, 16), torch.rand(2, 10))


def test_activations_beyond_float16_are_refused_and_the_remedies_work() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 5)).eval()
    with torch.no_grad():
        model[0].weight *= 1e6
        model[3].weight *= 1e-6
    trunk = trace_trunk(model, torch.zeros(2, 3, 16, 16))
    optimize(trunk)
    probes = check_images(2, (3, 16, 16), 7)
    with pytest.raises(BadInputError, match=r"export --dtype fp32, or --dtype bf16 --format compile$"):
        lower(trunk, "fp16", probes)
    for dtype in ("fp32", "bf16"):
        assert lower(trunk, dtype, probes).trunk is not None
