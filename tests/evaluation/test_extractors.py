"""Each kind of feature extractor, from a file to numbers, on networks whose features are known."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from jboost.engine.errors import BadInputError
from jboost.evaluation import evaluate
from jboost.evaluation.extractors.base import Identity, read_outputs
from jboost.evaluation.extractors.open import open_extractor

FACTORY = """
import torch

class Mean(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(3))

    def forward(self, x):
        return x.mean((2, 3)) * self.scale

def module():
    return Mean()

def function():
    return lambda x: {"features": x.mean((2, 3)), "probabilities": x.mean((2, 3)).softmax(1), "spatial": x[:, :2, ::8, ::8]}

def squeezed():
    return lambda x: x.mean((1, 2, 3))

def fails():
    raise RuntimeError("no weights")

def nothing():
    return None

number = 3
"""


class Mean(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def write_onnx(path: Path, batch: int | str, outputs: tuple[str, ...] = ("pooled",), size: int | str = "H") -> Path:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["map"]),
        helper.make_node("Flatten", ["map"], [outputs[0]]),
        *(helper.make_node("Identity", [outputs[0]], [name]) for name in outputs[1:]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, size, "W"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in outputs],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def write_program(path: Path, batch: int, dynamic: bool) -> Path:
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
    torch.export.save(torch.export.export(Mean(), (torch.rand(batch, 3, 16, 16),), dynamic_shapes=shapes), path)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch, images) -> Path:
    (tmp_path / "own_features.py").write_text(FACTORY)
    np.savez(tmp_path / "images.npz", images)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make(kind: str, folder: Path) -> str:
    if kind == "onnx":
        return str(write_onnx(folder / "mean.onnx", "B"))
    if kind == "onnx of a fixed batch":
        return str(write_onnx(folder / "mean.onnx", 4))
    if kind == "torchscript":
        torch.jit.trace(Mean(), torch.rand(2, 3, 16, 16)).save(folder / "mean.pt")
        return str(folder / "mean.pt")
    if kind == "program":
        return str(write_program(folder / "mean.pt2", 4, dynamic=True))
    if kind == "program of a fixed batch":
        return str(write_program(folder / "mean.pt2", 4, dynamic=False))
    return f"own_features:{kind}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "kind",
    ["onnx", "onnx of a fixed batch", "torchscript", "program", "program of a fixed batch", "module", "function"],
)
def test_features_of_each_kind_are_the_networks(here, images, kind) -> None:
    spec = make(kind, here)
    extractor = open_extractor(spec, "cpu", trust_code=True)
    expected = images.astype(np.float64).mean((1, 2)) / 255
    for count in (1, 2, 23):
        found = extractor(images[:count])
        assert found.features.dtype == np.float32
        np.testing.assert_allclose(found.features, expected[:count], rtol=1e-5)
    result = evaluate(
        "images.npz", ["images.npz"], features=spec, trust_code=True, device="cpu", batch_size=5, resamples=20
    )
    assert (result.extractor.kind, result.dimensions) == (
        kind.split()[0].replace("module", "factory").replace("function", "factory"),
        3,
    )
    assert result.samples[0].metrics["fid"].value == pytest.approx(0, abs=1e-8)
    assert result.samples[0].metrics["precision"].value == 1
    if Path(spec).is_file():
        assert result.extractor.sha256 == hashlib.sha256(Path(spec).read_bytes()).hexdigest()
    has_classes = kind == "function"
    assert (result.samples[0].metrics["is"].value is not None) == has_classes
    assert (result.samples[0].metrics["sfid"].value is not None) == has_classes


@pytest.mark.parametrize("spec", ["{}", "bundle:{}"])
def test_a_bundles_own_model_gives_its_logits_and_a_warning(here, bundle, spec) -> None:
    result = evaluate("images.npz", ["images.npz"], features=spec.format(bundle), device="cpu", resamples=0)
    assert (result.extractor.kind, result.dimensions) == ("bundle", 5)
    assert any("must not judge" in warning for warning in result.warnings)
    assert result.samples[0].metrics["is"].value > 1


def test_outputs_are_found_by_their_names(here, images) -> None:
    named = open_extractor(str(write_onnx(here / "two.onnx", "B", ("logits", "features"))), "cpu")(images[:2])
    assert named.logits is not None
    identity = Identity("x", "factory", "x:y", "0")
    a, b = np.ones((2, 4), np.float32), np.full((2, 5), 0.2, np.float32)
    assert read_outputs((a, b), identity, 2).logits.shape == (2, 5)
    assert read_outputs(a.reshape(2, 4, 1, 1), identity, 2).features.shape == (2, 4)
    found = read_outputs({"probabilities": b}, identity, 2)
    np.testing.assert_allclose(np.exp(found.logits), 0.2, rtol=1e-6)
    for bad in (a[0], a.reshape(2, 1, 2, 2), a[:1], {"embedding": a}, {"probabilities": a}, "text"):
        with pytest.raises(BadInputError, match=r"must give \[B, D\]"):
            read_outputs(bad, identity, 2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["torchscript", "program"])
def test_programs_need_trust(here, kind) -> None:
    with pytest.raises(BadInputError, match="--trust-code"):
        open_extractor(make(kind, here), "cpu")


def test_the_digest_of_a_factory_follows_its_parameters(here, monkeypatch) -> None:
    first = open_extractor("own_features:module", "cpu").identity.sha256
    assert open_extractor("own_features:module", "cpu").identity.sha256 == first
    import own_features

    monkeypatch.setattr(own_features.Mean, "__init__", lambda self: _init_with(self, 2.0))
    assert open_extractor("own_features:module", "cpu").identity.sha256 != first


def _init_with(network: torch.nn.Module, value: float) -> None:
    torch.nn.Module.__init__(network)
    network.scale = torch.nn.Parameter(torch.full((3,), value))


BAD = {
    "own_features:squeezed": "must give",
    "own_features:fails": "no weights",
    "own_features:nothing": "cannot be called",
    "own_features:number": "an object of type int, which cannot be called",
    "own_features:absent": "no 'absent'",
    "no_such_module:x": "no module",
    "own-features:x": "package.module:factory",
    "nowhere.onnx": "pt_inception",
    "bundle:nowhere": "jboost export",
    "text.onnx": "cannot run",
    "fixed.onnx": "32 rows",
    "images.npz": "plain tensors",
}


@pytest.mark.parametrize("spec", BAD)
def test_what_is_no_extractor_is_refused_with_a_remedy(here, spec) -> None:
    (here / "text.onnx").write_text("hello")
    write_onnx(here / "fixed.onnx", "B", size=32)
    with pytest.raises(BadInputError, match=BAD[spec]) as error:
        evaluate("images.npz", ["images.npz"], features=spec, device="cpu")
    assert "\n" not in str(error.value)
