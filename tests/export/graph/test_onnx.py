"""The ONNX that is written: right in its runtime, readable by TensorRT, the same bytes each time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from graph_models import ONE_OF_EACH, make

from jboost.engine.backends.torch_device import TORCH_DTYPES
from jboost.engine.errors import BadInputError, FailureError
from jboost.export.graph import OUTPUTS, attach_objective, choose_scale, lower_precision, optimize, trace_trunk
from jboost.export.onnx.by_torch import export_by_torch
from jboost.export.onnx.lowering import to_onnx
from jboost.export.onnx.verify import onnx_run, verify_onnx
from jboost.export.verification.gradient import Tolerance, check_images, judge, measure


def export(
    model: torch.nn.Module, shape: tuple[int, ...], path: Path, dtype: str = "fp32", **kwargs: bool
) -> list[Path]:
    trunk = trace_trunk(model, torch.zeros(shape), **kwargs)
    optimize(trunk)
    scale = choose_scale(trunk, check_images(shape[0], shape[1:], 7)).loss_scale if dtype == "fp16" else 1.0
    gradient = attach_objective(lower_precision(trunk, TORCH_DTYPES[dtype], scale), "joint", 1.5)
    return to_onnx(gradient, path, metadata={"objective": "joint", "l0": "1.5"})


@pytest.mark.parametrize(("name", "channels", "size"), ONE_OF_EACH)
def test_onnx_runtime_agrees_with_autograd(name: str, channels: int, size: int, tmp_path: Path) -> None:
    model = make(name, channels)
    written = export(model, (3, channels, size, size), tmp_path / "g.onnx")
    assert [p.name for p in written] == ["g.onnx", "g.onnx.data"]
    figures = verify_onnx(tmp_path / "g.onnx", model, "joint", (channels, size, size), l0=1.5, batch_sizes=(3, 2))
    assert figures.grad_worst < 1e-4
    assert figures.images == 10


@pytest.mark.parametrize("name", ["resnet", pytest.param("vit", marks=pytest.mark.slow)])
def test_dynamic_batch(name: str, tmp_path: Path) -> None:
    model = make(name)
    export(model, (2, 3, 16, 16), tmp_path / "g.onnx", dynamic_batch=True)
    figures = verify_onnx(tmp_path / "g.onnx", model, "joint", (3, 16, 16), l0=1.5, batch_sizes=(5, 1))
    assert figures.images == 12
    if name == "resnet":  # GPU runtimes compute what reads shapes on the CPU
        operators = {node.op_type for node in onnx.load(tmp_path / "g.onnx", load_external_data=False).graph.node}
        assert not operators & {"Shape", "Size", "ConstantOfShape"}


def test_names_metadata_and_identical_bytes(tmp_path: Path) -> None:
    model = make("resnet")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        export(model, (2, 3, 16, 16), tmp_path / folder / "g.onnx")
    for name in ("g.onnx", "g.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    written = onnx.load(tmp_path / "a" / "g.onnx", load_external_data=False)
    assert [i.name for i in written.graph.input] == ["x", "y"]
    assert tuple(o.name for o in written.graph.output) == OUTPUTS
    assert {p.key: p.value for p in written.metadata_props} == {"objective": "joint", "l0": "1.5"}
    assert b"/work" not in (tmp_path / "a" / "g.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in (tmp_path / "a" / "g.onnx").read_bytes()
    assert not {"ConvTranspose", "MaxPool", "LayerNormalization"} & {n.op_type for n in written.graph.node}


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_trained_network_is_within_the_default_tolerance(
    trained: torch.nn.Module, dtype: str, tmp_path: Path
) -> None:
    export(trained, (4, 3, 32, 32), tmp_path / "g.onnx", dtype)
    figures = verify_onnx(tmp_path / "g.onnx", trained, "joint", (3, 32, 32), l0=1.5, dtype=dtype)
    assert figures.grad_median < (1e-4 if dtype == "fp32" else 0.05)


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    trunk = trace_trunk(make("resnet"), torch.zeros(2, 3, 16, 16))
    gradient = attach_objective(trunk, "ce")
    with pytest.raises(BadInputError, match="opset 9"):
        to_onnx(gradient, tmp_path / "g.onnx", opset=9)
    half = attach_objective(lower_precision(trunk, torch.bfloat16), "ce")
    with pytest.raises(BadInputError, match="bfloat16"):
        to_onnx(half, tmp_path / "g.onnx", opset=20)
    assert not list(tmp_path.iterdir())


def test_the_newest_opset_is_the_newest_that_onnx_runtime_reads(tmp_path: Path) -> None:
    model = make("resnet")
    gradient = attach_objective(trace_trunk(model, torch.zeros(2, 3, 16, 16)), "ce")
    with pytest.raises(BadInputError, match="reads up to") as refused:
        to_onnx(gradient, tmp_path / "g.onnx", opset=900)
    offered = re.search(r"choose one from 18 to (\d+)", str(refused.value))
    assert offered
    newest = int(offered[1])
    to_onnx(gradient, tmp_path / "g.onnx", opset=newest)
    verify_onnx(tmp_path / "g.onnx", model, "ce", (3, 16, 16), batch_sizes=(2,))
    # One more is refused: by onnx, or by ONNX Runtime in this very file.
    with pytest.raises(BadInputError, match=f"opset {newest + 1} cannot be used"):
        to_onnx(gradient, tmp_path / "g.onnx", opset=newest + 1)
    if newest < onnx.defs.onnx_opset_version():
        proto = onnx.load(tmp_path / "g.onnx", load_external_data=False)
        proto.opset_import[0].version = newest + 1
        onnx.save(proto, tmp_path / "g.onnx")
        with pytest.raises(BadInputError):
            onnx_run(tmp_path / "g.onnx")


@pytest.mark.parametrize("opset", [20, 22])
def test_where_torchs_exporter_fails_at_a_newer_opset_the_default_is_named(
    opset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise RuntimeError("Output 'mean' is redeclared")

    monkeypatch.setattr(torch.onnx, "export", fails)
    gradient = attach_objective(trace_trunk(make("resnet"), torch.zeros(2, 3, 16, 16)), "ce")
    with pytest.raises(BadInputError, match=r"'mean' is redeclared; .*replace the layer") as refused:
        export_by_torch(gradient, opset, OUTPUTS)
    assert ("try --opset 20" in str(refused.value)) == (opset > 20)


def test_another_model_fails_the_check(tmp_path: Path) -> None:
    export(make("convnext"), (2, 3, 16, 16), tmp_path / "g.onnx")
    with pytest.raises(FailureError, match="median gradient error"):
        verify_onnx(tmp_path / "g.onnx", make("convnext", seed=1), "joint", (3, 16, 16), l0=1.5)
    with pytest.raises(FailureError, match="gradient error"):
        verify_onnx(tmp_path / "g.onnx", make("convnext"), "ce", (3, 16, 16))


def test_figures_and_bounds(tmp_path: Path) -> None:
    model = make("convnext")
    export(model, (2, 3, 16, 16), tmp_path / "g.onnx")
    run, fixed = onnx_run(tmp_path / "g.onnx")
    assert fixed == 2
    figures = measure(run, model, "joint", (3, 16, 16), l0=1.5, batch_sizes=(2,), fixed_batch=fixed)
    with pytest.raises(FailureError, match="bound"):
        judge(figures, Tolerance(median=1e-9, worst=1e-9, cosine=1.0, logits=1e-12, slack=0.0))
    assert figures.as_dict()["images"] == 4
    (tmp_path / "g.onnx").write_bytes(b"not a model")
    with pytest.raises(BadInputError, match=r"g\.onnx"):
        onnx_run(tmp_path / "g.onnx")


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, dtype) for name in ("resnet", "convnext", "vit") for dtype in ("fp32", "fp16")),
        ("resnet", "bf16"),
        pytest.param("convnext", "bf16", marks=pytest.mark.slow),
        pytest.param("vit", "bf16", marks=pytest.mark.slow),
    ],
)
def test_tensorrt_parses_and_builds_it(name: str, dtype: str, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    export(make(name), (2, 3, 16, 16), tmp_path / "g.onnx", dtype)
    assert plan(trt, tmp_path / "g.onnx", "SM86") is not None


@pytest.mark.parametrize(
    "name", ["resnet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("convnext", "vit"))]
)
def test_tensorrt_builds_any_batch_size_for_other_gpus(name: str, tmp_path: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    export(make(name), (2, 3, 16, 16), tmp_path / "g.onnx", "fp16", dynamic_batch=True)
    for capability in ("SM89", "SM120"):
        assert plan(trt, tmp_path / "g.onnx", capability, batches=(1, 4)) is not None


def plan(trt: Any, path: Path, capability: str, batches: tuple[int, int] | None = None) -> Any:
    """The serialised engine of a graph for GPUs that need not be here, or None; `batches` for a graph of any batch size."""
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(path)), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    if batches is not None:
        least, most = batches
        profile = builder.create_optimization_profile()
        for value in (network.get_input(i) for i in range(network.num_inputs)):
            image = tuple(value.shape)[1:]
            assert value.shape[0] == -1
            profile.set_shape(value.name, (least, *image), (most, *image), (most, *image))
        config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)
