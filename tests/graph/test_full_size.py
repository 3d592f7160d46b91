"""The networks the project is for, at the sizes they run at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jboost.export.graph import attach_objective, optimize, to_onnx, trace_trunk, verify_onnx
from jboost.trainer.architectures import build_network
from jboost.trainer.joint import JointModel


@pytest.mark.slow
@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("arch", ["resnet50", "wide_resnet50_2"])
def test_onnx_agrees_with_autograd(arch: str, size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = (
        JointModel(build_network(arch, 1000), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)).eval().requires_grad_(False)
    )
    trunk = trace_trunk(model, torch.zeros(2, 3, size, size))
    counts = optimize(trunk)
    assert counts["flip_weights"] == 46
    assert counts["split_strided"] == 7
    assert counts["relu_masks_as_products"] == 49
    to_onnx(attach_objective(trunk, "joint", 1.0), tmp_path / "g.onnx")
    figures = verify_onnx(tmp_path / "g.onnx", model, "joint", (3, size, size), l0=1.0, batch_sizes=(2,))
    print(arch, size, figures)
    assert figures.grad_median < 1e-4
