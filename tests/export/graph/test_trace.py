"""The traced graph in float64 is autograd, for every architecture, size, channel count and objective."""

from __future__ import annotations

import pytest
import torch
from graph_gradients import trace_gradient
from graph_models import TinyResNet, make, reference
from torch import nn

from jboost.engine.errors import BadInputError
from jboost.engine.method.objectives import OBJECTIVES
from jboost.export.graph.trace import attach_objective, trace_trunk


def inputs(shape: tuple[int, ...], seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=g, dtype=torch.float64), torch.randint(0, 10, shape[:1], generator=g)


def agree(got: tuple[torch.Tensor, ...], want: tuple[torch.Tensor, ...], tol: float = 1e-10) -> None:
    for a, b in zip(got[:3], want[:3], strict=True):
        assert a.shape == b.shape
        assert (a - b).norm() <= tol * b.norm().clamp_min(1e-3)
    assert torch.equal(got[3], want[3])


CASES = [
    ("resnet", 3, 32),
    ("resnet", 1, 33),
    ("resnet", 3, 45),
    ("preactivation", 3, 16),
    ("preactivation", 1, 19),
    ("convnext", 3, 16),
    ("convnext", 1, 27),
    ("vit", 3, 16),
    ("vit", 1, 18),
    ("odd", 3, 20),
    ("odd", 1, 23),
]


@pytest.mark.parametrize(
    ("name", "channels", "size", "pooling"),
    [(*case, "shifted") for case in CASES]
    + [(*case, how) for case in (("resnet", 1, 33), ("odd", 1, 23)) for how in ("scatter", "gather")],
)
def test_the_graph_is_autograd_on_fresh_inputs(name: str, channels: int, size: int, pooling: str) -> None:
    model = make(name, channels).double()
    graph = trace_gradient(
        model, "joint", torch.zeros(2, channels, size, size, dtype=torch.float64), 1.5, pooling=pooling
    )
    x, y = inputs((2, channels, size, size))
    agree(graph(x, y), reference(model, "joint", x, y, 1.5))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_hangs_on_one_trunk(objective: str) -> None:
    model = make("resnet").double()
    trunk = trace_trunk(model, torch.zeros(3, 3, 32, 32, dtype=torch.float64))
    x, y = inputs((3, 3, 32, 32))
    agree(attach_objective(trunk, objective, 0.7)(x, y), reference(model, objective, x, y, 0.7))


@pytest.mark.parametrize("name", ["resnet", "preactivation", "convnext", "vit", "odd"])
def test_dynamic_batch(name: str) -> None:
    model = make(name).double()
    size = 16 if name == "vit" else 32
    graph = trace_gradient(model, "ce", torch.zeros(2, 3, size, size, dtype=torch.float64), dynamic_batch=True)
    for batch in (2, 5):
        x, y = inputs((batch, 3, size, size))
        agree(graph(x, y), reference(model, "ce", x, y, None))


@pytest.mark.parametrize(("pool", "size"), [(2, 33), (3, 40), (5, 72)])
def test_adaptive_pooling_at_sizes_it_does_not_divide(pool: int, size: int) -> None:
    model = make("resnet", pool=pool).double()
    graph = trace_gradient(model, "bce", torch.zeros(2, 3, size, size + 6, dtype=torch.float64))
    x, y = inputs((2, 3, size, size + 6))
    agree(graph(x, y), reference(model, "bce", x, y, None))


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "ceil"), [
    (3, 2, 1, 1, False), (2, 2, 0, 1, False), (3, 1, 1, 1, False), (3, 3, 1, 1, True), (2, 3, 0, 1, False), (3, 2, 1, 2, True),
])  # fmt: skip
@pytest.mark.parametrize("size", [9, 12])
def test_max_pooling_sends_ties_where_torch_does(
    kernel: int, stride: int, padding: int, dilation: int, ceil: bool, size: int
) -> None:
    model = nn.Sequential(
        nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil), nn.Flatten(), nn.LazyLinear(4)
    ).double()
    x, _ = inputs((3, 2, size, size))
    x = (x * 3).round()  # few values, so that most windows have ties
    model(x)
    model.requires_grad_(False)
    y = torch.tensor([0, 1, 3])
    for pooling in ("shifted", "scatter", "gather"):
        graph = trace_gradient(model, "ce", torch.zeros_like(x), pooling=pooling)
        assert torch.equal(graph(x, y)[0] != 0, reference(model, "ce", x, y, None)[0] != 0)
        agree(graph(x, y), reference(model, "ce", x, y, None))


def test_weights_are_shared_buffers_and_tied_ones_appear_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 3, 3, padding=1)
            self.b = nn.Conv2d(3, 3, 3, padding=1)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.tanh(self.a(x))).mean((2, 3))

    model = Tied()
    graph = trace_gradient(model, "ce", torch.zeros(2, 3, 8, 8))
    buffers = {k: b for k, b in graph.named_buffers() if not k.startswith("folded")}
    assert set(buffers) == {"a_weight", "a_bias", "b_bias"}
    assert buffers["a_weight"].data_ptr() == model.a.weight.data_ptr()


def test_tracing_leaves_the_model_as_it_was() -> None:
    model = TinyResNet().train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trace_trunk(model, torch.zeros(2, 3, 32, 32))
    assert model.training
    assert all(m.training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


class Holder(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.strange = nn.Conv2d(3, 4, 3), layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.strange(self.stem(x)).flatten(1)[:, :4]


def test_an_operator_without_a_rule_is_named_with_its_module_and_the_remedy() -> None:
    with pytest.raises(
        BadInputError, match=r"fractional_max_pool2d_backward.*from strange \(FractionalMaxPool2d\).*register"
    ):
        trace_trunk(Holder(nn.FractionalMaxPool2d(2, output_size=4)), torch.zeros(2, 3, 12, 12))


class Item(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) * x.mean().item()


class Cut(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach().flatten(1)


@pytest.mark.parametrize(("layer", "words"), [
    (Item(), "cannot be traced"),
    (Cut(), "differentiabl"),
    (nn.BatchNorm2d(4, track_running_stats=False), "running statistics"),
    (nn.Identity(), None),
])  # fmt: skip
def test_models_that_cannot_be_exported_say_why(layer: nn.Module, words: str | None) -> None:
    if words is None:
        with pytest.raises(BadInputError, match="logits"):
            trace_trunk(nn.Conv2d(3, 4, 3), torch.zeros(2, 3, 12, 12))
    else:
        with pytest.raises(BadInputError, match=words):
            trace_trunk(Holder(layer), torch.zeros(2, 3, 12, 12))
    with pytest.raises(BadInputError, match="l0"):
        trace_gradient(TinyResNet(), "joint", torch.zeros(2, 3, 32, 32))
