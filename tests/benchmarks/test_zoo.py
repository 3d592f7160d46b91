"""The zoo: models of timm and torchvision export and are right, and the list of done models is kept."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jboost.export.graph import attach_objective, optimize, trace_trunk
from jboost.export.onnx.lowering import to_onnx
from jboost.export.onnx.verify import onnx_run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import zoo
import zoo_models

BY_NAME = {model.name: model for model in zoo_models.MODELS}


@pytest.mark.slow
def test_a_model_of_another_package_exports_and_its_gradient_is_right(tmp_path: Path) -> None:
    found = zoo.check(BY_NAME["timm:levit_128s:64"], tmp_path)
    assert found["passed"], found
    assert found["floor"] < 1e-4, "the network is calm enough to tell right from wrong"


@pytest.mark.parametrize(
    "name",
    [
        "timm:convnext_atto:64",
        pytest.param("timm:levit_128s:64", marks=pytest.mark.slow),
        pytest.param("timm:resnetblur50:64", marks=pytest.mark.slow),
        pytest.param("torchvision:swin_transformer.SwinTransformer:32", marks=pytest.mark.slow),
    ],
)
def test_the_gradient_graph_of_another_package_s_model_is_right(name: str, tmp_path: Path) -> None:
    model = BY_NAME[name]
    torch.manual_seed(0)
    network = model.build()
    zoo.calibrate(network, model.size)
    network.requires_grad_(False)
    shape = (3, model.size, model.size)
    trunk = trace_trunk(network, torch.rand(2, *shape), dynamic_batch=True)
    optimize(trunk, "onnx")
    to_onnx(attach_objective(trunk, "joint", zoo.L0), tmp_path / "g.onnx")
    run, _ = onnx_run(tmp_path / "g.onnx")
    exact = copy.deepcopy(network).double()
    for batch in (1, 3):
        x, y = torch.rand(batch, *shape), torch.arange(batch)
        grad = torch.from_numpy(np.asarray(run(x.numpy(), y.numpy())[0]))
        assert max(zoo.errors(grad, zoo.gradient(exact, x.double(), y))) < 1e-4


def test_the_zoo_is_wide_enough() -> None:
    assert len(BY_NAME) == len(zoo_models.MODELS) >= 40
    assert {model.package for model in zoo_models.MODELS} == {"timm", "torchvision", "robustbench"}


def row(name: str, **facts: object) -> dict[str, object]:
    model = BY_NAME[name]
    return {
        "name": name, "family": model.family, "package": model.package, "source": model.source, "size": model.size,
        "passed": True, "worst": 1e-6, "floor": 1e-6, "seconds": 4.2, "why": None,
    } | facts  # fmt: skip


def test_models_that_are_done_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done, crashing = "timm:convnext_atto:64", "timm:levit_128s:64"
    docs = tmp_path / "architectures.md"
    docs.write_text(f"before\n{zoo.BEGIN}\nold\n{zoo.END}\nafter\n")
    (tmp_path / "rows.jsonl").write_text(json.dumps(row(done)) + "\n")
    ran = []

    def run_apart(model: zoo_models.Model, limit: float) -> dict[str, object]:
        ran.append(model.name)
        return row(model.name, passed=False, worst=None, why="exit code -11: no | output\nat all")

    monkeypatch.setattr(zoo, "DOCS", docs)
    monkeypatch.setattr(zoo, "run_apart", run_apart)
    monkeypatch.setattr(zoo, "version", lambda name: "1.0")
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["zoo.py", "convnext_atto:", "levit", "--out", str(tmp_path)])
        zoo.main()
    assert ran == [crashing]
    text = docs.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "1 of 2 models pass" in text
    assert "Not run yet: timm `resnet18`, " in text
    assert "| no: exit code -11: no / output at all |" in text


def test_a_model_that_crashes_or_hangs_is_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = BY_NAME["timm:levit_128s:64"]
    script = tmp_path / "script.py"
    monkeypatch.setattr(zoo, "__file__", str(script))
    script.write_text("import os; os.abort()")
    crashed = zoo.run_apart(model, 30)
    assert not crashed["passed"]
    assert "exit code -6" in crashed["why"]
    script.write_text("import time; time.sleep(60)")
    hung = zoo.run_apart(model, 0.5)
    assert "not done after" in hung["why"]


def test_the_reference_tells_a_wrong_gradient() -> None:
    x, y = torch.rand(2, 3, 4, 4, dtype=torch.float64), torch.tensor([0, 1])
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3)).double()
    want = zoo.gradient(network, x, y)
    assert zoo.errors(want, want) == [0, 0]
    assert zoo.errors(want * torch.tensor([1.0, 1.1])[:, None, None, None], want) == pytest.approx([0, 0.1])
    assert torch.allclose(zoo.gradient(network, x[:1], y[:1]), want[:1])
