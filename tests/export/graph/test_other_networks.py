"""Constructions of other people's networks: pooled permuted maps, branches on buffers, tensors cached in evaluation mode."""

from __future__ import annotations

import copy
import math
import re
import shutil
from pathlib import Path

import numpy as np
import other_networks
import pytest
import torch
from graph_gradients import trace_gradient
from graph_models import reference
from other_networks import POOLS, Caching, Everything, GloballyPooled, SparseNet, ready
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn import functional as F

from jboost.engine.backends import archive
from jboost.engine.backends.program import load_program
from jboost.engine.errors import BadInputError
from jboost.export.compiled.first_use import Program
from jboost.export.forward import FORWARD_ATOL, FORWARD_RTOL, save_forward_program, verify_forward_program
from jboost.export.graph.trace import trace_trunk
from jboost.export.verification.float64 import in_float64
from jboost.trainer.attack import evaluating

SHAPE = (2, 3, 16, 16)


def inputs(batch: int = 3) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    return torch.rand(batch, *SHAPE[1:], generator=g, dtype=torch.float64), torch.arange(batch) % 4


def check_gradient(model: nn.Module, exact: nn.Module | None = None) -> None:
    """The traced gradient in float64, for any batch size, is autograd of `exact`, a network of the same function."""
    model.double()
    exact = exact or copy.deepcopy(model)
    graph = trace_gradient(model, "ce", torch.zeros(SHAPE, dtype=torch.float64), dynamic_batch=True)
    for batch in (2, 3):
        x, y = inputs(batch)
        for got, want in zip(graph(x, y)[:3], reference(exact, "ce", x, y, None)[:3], strict=True):
            assert (got - want).norm() <= 1e-10 * want.norm()


def check_program(model: nn.Module, path: Path, sizes: tuple[int, ...] = (16,)) -> None:
    """forward.pt2 is written, reloaded and right at several batch sizes."""
    how = {"in_channels": 3, "resolutions": sizes}
    save_forward_program(model, path, **how)
    verify_forward_program(model, path, **how, atol=FORWARD_ATOL, rtol=FORWARD_RTOL)


@pytest.mark.parametrize("pool", POOLS)
def test_global_pooling_of_a_permuted_map_is_a_mean(pool: str) -> None:
    torch.manual_seed(0)
    model = ready(GloballyPooled(POOLS[pool]))
    trunk = trace_trunk(model, torch.zeros(SHAPE), dynamic_batch=True)
    assert [str(node.target) for node in trunk.graph.nodes if "as_strided" in str(node.target)] == []
    check_gradient(model)


def test_global_pooling_of_an_exported_program_is_a_mean(tmp_path: Path) -> None:
    # `compile` traces the bundle's own program, whose pooling is an operator and no function any more.
    torch.manual_seed(0)
    model = ready(GloballyPooled(POOLS["module"]))
    check_program(model, tmp_path / "forward.pt2")
    program = Program(load_program(tmp_path / "forward.pt2", "cpu"))
    trunk = trace_trunk(program, torch.zeros(SHAPE))
    assert [str(node.target) for node in trunk.graph.nodes if "as_strided" in str(node.target)] == []


LAYERS: dict[str, nn.Module] = {
    "instance norm": nn.InstanceNorm2d(6, affine=True),
    "instance norm with statistics": nn.InstanceNorm2d(6, track_running_stats=True),
    "adaptive max-pooling": nn.AdaptiveMaxPool2d((2, 4)),
    "global max-pooling": nn.AdaptiveMaxPool2d(1),
    "max-pooling of tokens": nn.Sequential(nn.Flatten(2), nn.MaxPool1d(3, 2, 1)),
    "repeated border": nn.ReplicationPad2d((1, 2, 3, 0)),
    "local response norm": nn.LocalResponseNorm(4, alpha=0.1),
    "randomised leaky ReLU": nn.RReLU(),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_whose_own_operators_have_no_forward_form(layer: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), copy.deepcopy(LAYERS[layer]), nn.Flatten(), nn.LazyLinear(4)
    )
    model(torch.rand(SHAPE))
    model.eval().requires_grad_(False)
    # The program that `compile` traces, and the network itself.
    check_program(model, tmp_path / "forward.pt2")
    trace_trunk(Program(load_program(tmp_path / "forward.pt2", "cpu")), torch.zeros(SHAPE))
    check_gradient(model)


def test_adaptive_max_pooling_to_a_size_that_does_not_divide_the_map_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.AdaptiveMaxPool2d(3), nn.Flatten(), nn.Linear(54, 4)).eval()
    with pytest.raises(BadInputError, match=r"adaptive_max_pool2d_backward.*AdaptiveMaxPool2d"):
        trace_trunk(model, torch.zeros(SHAPE))


@pytest.mark.parametrize("threshold", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_branch_on_a_buffer_of_one_number_is_decided_by_its_value(
    threshold: float, shape: tuple[int, ...], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = ready(SparseNet(threshold, shape))
    check_program(model, tmp_path / "forward.pt2")
    check_gradient(model)


@pytest.mark.parametrize("clears", [True, False])
@pytest.mark.parametrize("filled", [True, False])
def test_a_network_that_caches_a_tensor_exports(clears: bool, filled: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ready(Caching(clears))
    if filled:
        model(torch.rand(SHAPE))
    check_program(model, tmp_path / "forward.pt2")
    before = model(torch.ones(SHAPE))
    trace_trunk(model, torch.zeros(SHAPE))
    # Tracing leaves nothing of its own in the cache.
    assert not any(isinstance(tensor, FakeTensor) for tensor in model.cache.values())
    assert torch.equal(model(torch.ones(SHAPE)), before)
    if clears:
        check_gradient(model)


def test_the_float64_reference_is_float64_throughout() -> None:
    torch.manual_seed(0)
    model = ready(Caching(clears=False))
    x, _ = inputs()
    want = model(x.float())
    exact = in_float64(model)
    assert exact(x).dtype is torch.float64
    assert torch.allclose(exact(x).float(), want, atol=1e-5)
    assert model.cache["cpu"].dtype is torch.float32  # the model itself is left as it was


class Casting(nn.Module):
    """Casts to float32 in every way, one of them in a part without gradients, and new tensors in the default dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            place = torch.arange(8).to(torch.float32) / 3 + torch.zeros(8, dtype=torch.float32) + torch.ones(8)
            place = self.head(place.float())
        x = torch.tanh(self.conv(x)).float().mean((2, 3)).to(dtype=torch.float32)
        return self.head(x.type(torch.float32)) + place.to(torch.float32) @ torch.eye(4)


def test_the_float64_reference_of_a_network_that_casts_to_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ready(Casting())
    x, _ = inputs()
    with torch.no_grad():
        place = F.linear(torch.arange(8).double() / 3 + 1, model.head.weight.double(), model.head.bias.double())
        features = torch.tanh(F.conv2d(x, model.conv.weight.double(), model.conv.bias.double())).mean((2, 3))
        want = F.linear(features, model.head.weight.double(), model.head.bias.double()) + place
    check_program(model, tmp_path / "forward.pt2")
    program = load_program(tmp_path / "forward.pt2", "cpu")
    for network in (model, program):
        assert torch.allclose(in_float64(network)(x), want, rtol=1e-13, atol=1e-13)
    # `verify` compares a bundle's program with itself.
    verify_forward_program(program, tmp_path / "forward.pt2", in_channels=3, resolutions=(16,), atol=1e-4, rtol=1e-3)


class Viewed(nn.Module):
    """The head of CIFAR ResNets: fixed pooling, then a view whose width holds for one image size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, 4, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.relu(self.conv(x)), 4)
        return self.head(x.view(x.size(0), -1))


def test_a_network_whose_sizes_torch_cannot_solve_exports_at_its_own_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ready(Viewed())
    check_program(model, tmp_path / "forward.pt2")
    with pytest.raises(BadInputError, match=r"20x20|one size at a time"):
        check_program(model, tmp_path / "forward.pt2", (16, 20))


class Resized(nn.Module):
    """Interpolation to a size that torch.export writes as math.trunc, or as math.ceil of a quotient, where sizes are open."""

    def __init__(self, ceil: bool) -> None:
        super().__init__()
        self.conv, self.head, self.ceil = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4), ceil

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x))
        if self.ceil:
            x = F.interpolate(x, size=(math.ceil(x.shape[2] / 3) * 3, math.ceil(x.shape[3] / 3) * 3), mode="bilinear")
        else:
            x = F.interpolate(x, scale_factor=0.75, mode="bilinear")
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("ceil", [False, True])
def test_a_network_whose_open_sizes_torch_cannot_write_exports_at_its_own_size(ceil: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_program(ready(Resized(ceil)), tmp_path / "forward.pt2")


def test_a_program_that_the_archive_refuses_at_any_size_is_refused_without_a_circle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "_OPERATOR", re.compile("torch.ops.aten.relu.default"))
    with pytest.raises(BadInputError, match=r"cannot be exported at 16x16: its graph calls .*; replace the layer") as e:
        save_forward_program(ready(Resized(False)), tmp_path / "forward.pt2", in_channels=3, resolutions=(16,))
    assert "again" not in str(e.value)
    assert not list(tmp_path.iterdir())


def test_tracing_leaves_the_weights_of_a_shared_layer() -> None:
    act = nn.PReLU()
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Sequential(act), nn.Sequential(act), nn.Flatten(), nn.Linear(784, 4)
    ).eval()
    trace_trunk(model, torch.zeros(SHAPE))
    assert not isinstance(act.weight, FakeTensor)
    copy.deepcopy(model)


def test_training_does_not_see_a_stale_cache() -> None:
    torch.manual_seed(0)
    model = Caching().train()
    x = torch.rand(SHAPE)
    with evaluating(model):
        before = model(x).detach()
    assert model.training
    with torch.no_grad():
        model.table.add_(1.0)
    with evaluating(model):
        assert not torch.allclose(model(x), before)


def test_an_image_size_that_the_model_does_not_take_is_said_before_tracing() -> None:
    with pytest.raises(BadInputError, match=r"fails on images of 16x16.*--resolution"):
        trace_trunk(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(5, 4)), torch.zeros(SHAPE))


def test_a_bundle_of_such_a_network_is_right_at_every_batch_size(jboost, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(ready(Everything(4)).state_dict(), tmp_path / "net.pt")
    shutil.copy(other_networks.__file__, tmp_path)  # --arch looks in the current directory
    made = jboost(
        "export", "--ckpt", "net.pt", "-o", "bundle", "--arch", "other_networks:everything", "--num-classes", "4",
        "--resolution", "16", "--normalize", "none", "--objective", "ce", cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    checked = jboost("verify", "bundle", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    images = (inputs(3)[0].numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    np.savez(tmp_path / "samples.npz", images, np.arange(3))
    results = []
    for engine, batch in (("eager", 1), ("onnx", 3)):
        out = f"{engine}{batch}.npz"
        done = jboost(
            "boost", "samples.npz", "-o", out, "--bundle", "bundle", "--engine", engine, "-b", batch, "--objective", "ce",
            "--steps", "4", "--step-size", "0.3", "--device", "cpu", cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        results.append(np.load(tmp_path / out)["arr_0"].astype(int))
    assert np.abs(results[0] - images).max() > 3
    assert np.abs(results[1] - results[0]).max() <= 1
