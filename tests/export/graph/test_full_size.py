"""The networks the project is for, at the sizes they run at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from graph_models import reference
from torch import nn

from jboost.export.graph import attach_objective, optimize, optimize_for_cpu, trace_trunk
from jboost.export.graph.optimize import Recipe
from jboost.export.graph.passes.input_gradients import Strided
from jboost.export.onnx.lowering import to_onnx
from jboost.export.onnx.verify import verify_onnx
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
    for block in model.modules():
        # As in trained networks, the residual branches add little; untrained ones are chaotic.
        if hasattr(block, "bn3"):
            nn.init.constant_(block.bn3.weight, 0.2)
    trunk = trace_trunk(model, torch.zeros(2, 3, size, size))
    counts = optimize(trunk)
    assert counts["flip_weights"] == 46
    assert counts["split_strided"] == 7
    assert counts["relu_masks_as_products"] == 49
    to_onnx(attach_objective(trunk, "joint", 1.0), tmp_path / "g.onnx")
    figures = verify_onnx(tmp_path / "g.onnx", model, "joint", (3, size, size), l0=1.0, batch_sizes=(2,))
    print(arch, size, figures)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "small_maps"), [("phases", False), ("merged", False), ("transposed", False), ("cheapest", True)]
)
def test_the_optimised_graph_is_autograd_in_float64(form: Strided, small_maps: bool) -> None:
    torch.manual_seed(0)
    model = JointModel(build_network("resnet50", 1000), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    model = model.eval().requires_grad_(False).double()
    trunk = trace_trunk(model, torch.zeros(2, 3, 64, 64, dtype=torch.float64))
    optimize(trunk, recipe=Recipe(strided=form, product_masks=True, small_maps=small_maps))
    if small_maps:
        assert optimize_for_cpu(trunk) == {"winograd": 16, "patches_as_rows": 8}
    x, y = torch.rand(2, 3, 64, 64, dtype=torch.float64), torch.tensor([3, 977])
    got = attach_objective(trunk, "joint", 1.0)(x, y)
    want = reference(model, "joint", x, y, 1.0)
    assert (got[0] - want[0]).norm() < 1e-10 * want[0].norm()
