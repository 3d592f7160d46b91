"""The trt engine on a host device, with ONNX Runtime in TensorRT's place: everything but TensorRT and CUDA themselves."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from host_device import HostDevice
from public_api import boosted
from stand_in_trt import DataType, RuntimeCache, TensorFormat, TensorIOMode, TensorLocation, World

import jboost
from jboost.engine.backends.onnx.cpu import OnnxRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.backends.trt import plans, runner
from jboost.engine.backends.trt.network import FORWARD, GRADIENT, TensorRTNetwork, network_run
from jboost.engine.backends.trt.plans import PlanKey, artefact_name, forward_name, key_name, why_unusable
from jboost.engine.backends.trt.runner import TrtRunner
from jboost.engine.backends.trt.variant import load_variant
from jboost.engine.bundle import Bundle, artefact_of, trust_bundle
from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.system import gpu
from jboost.engine.system.cache import cache_folder
from jboost.engine.system.gpu import Driver, Gpu
from jboost.export.compiled.first_use import model_of
from jboost.export.trt.plans import check_name, write_reference

BATCH, SIZE, VERSION = 4, 16, "1.2.3"
CARD = Gpu("NVIDIA RTX A4000", "8.6", 16 << 30)
REQUEST = RunRequest("joint", 3.0, SIZE)


@pytest.fixture(scope="module")
def planned(bundle, tmp_path_factory) -> Path:
    """A bundle with plans for `CARD`; what is in them only the stand-in knows. Those called fp16 come from the float32 graphs."""
    out = tmp_path_factory.mktemp("trt") / "bundle"
    shutil.copytree(bundle, out)
    opened = Bundle(out)
    artefacts = dict(opened.config.artefacts)
    (out / "trt").mkdir()
    write_reference(out / "trt" / "check.npz", model_of(opened), ("joint",), (3, SIZE, SIZE), 3.0)
    artefacts[check_name(SIZE)] = artefact_of(out, "trt/check.npz")
    bounds = {"grad_median": 1e-4, "grad_worst": 1e-2, "cosine_worst": 1e-4, "logits_worst": 1e-4}
    for dtype in ("fp32", "fp16"):
        for what, name in (
            ("joint", artefact_name("joint", dtype, SIZE, "sm_86")),
            ("forward", forward_name(dtype, SIZE, "sm_86")),
        ):
            source = f"onnx/{what}/fp32/{SIZE}"
            sources = {n: artefacts[n].sha256 for n in (source, f"{source}/weights")}
            key = PlanKey("tensorrt_rtx", VERSION, None, "8.6", dtype, BATCH, sources, bounds)
            (out / f"trt/{what}.{dtype}.plan").write_text(f"the plan of {what} in {dtype}")
            (out / f"trt/{what}.{dtype}.json").write_text(key.to_json())
            facts = {"dtype": dtype, "batch_size": BATCH, "target": key.target}
            artefacts[name] = artefact_of(out, f"trt/{what}.{dtype}.plan", resolution=SIZE, **facts)
            artefacts[key_name(name)] = artefact_of(out, f"trt/{what}.{dtype}.json", **facts)
    write_config(out, opened, artefacts)
    return out


def write_config(folder, bundle, artefacts) -> None:
    (folder / "config.json").write_text(dataclasses.replace(bundle.config, artefacts=artefacts).to_json())
    trust_bundle(Bundle(folder), folder, "the tests")


@pytest.fixture
def world(planned, emulator, monkeypatch) -> World:
    """`CARD`, and a TensorRT-RTX that knows the plans of the bundle."""
    made = World(BATCH)
    made.device = HostDevice(emulator, schedule="lazy")
    bundle = Bundle(planned)
    for name, artefact in bundle.config.artefacts.items():
        if artefact.file.endswith(".plan"):
            source = next(iter(plans.read_key(bundle, name).sources))
            made.graphs[artefact.sha256] = str(bundle.checked_path(source))
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", made.module("tensorrt_rtx", VERSION))
    monkeypatch.setattr(plans, "find_driver", lambda: Driver("580.0", "13.0", (CARD,), None))
    monkeypatch.setattr(runner, "open_device", lambda index: made.device)
    return made


@pytest.mark.parametrize("update", [jboost.PGD(4, 0.2), jboost.SGLD(4, 0.005, noise=0.01)])
@pytest.mark.parametrize("dynamic", [False, True])
def test_images_are_those_of_the_onnx_engine(planned, world, images, labels, update, dynamic) -> None:
    world.dynamic = dynamic
    bundle = Bundle(planned)
    got = boosted(planned, TrtRunner(bundle, REQUEST), images, labels, update, BATCH)
    want = boosted(planned, OnnxRunner(bundle, REQUEST), images, labels, update, BATCH)
    a, b = got.images.astype(int), want.images.astype(int)
    assert (a == b).mean() > 0.999
    assert np.abs(a - b).max() <= 1
    assert (got.summary.engine, got.summary.device, got.summary.batch_size) == ("trt", "cuda", BATCH)
    assert got.summary.realness_after == pytest.approx(want.summary.realness_after, rel=1e-3)
    assert world.device.graphs > 0  # steps were captured
    assert world.device.closed
    assert not world.device.buffers  # and everything given back
    if dynamic:
        assert all(c.shapes == {"x": (BATCH, 3, SIZE, SIZE), "y": (BATCH,)} for e in world.engines for c in e.contexts)


def test_what_cannot_be_captured_is_run_step_by_step(planned, world, images, labels) -> None:
    world.capturable = False
    boosted(planned, TrtRunner(Bundle(planned), REQUEST), images, labels, jboost.PGD(2, 0.2), BATCH)
    assert world.device.graphs == 0


@pytest.mark.parametrize("has_plan", [True, False])
def test_a_gradient_that_overflows_is_computed_again(planned, world, images, labels, has_plan, tmp_path) -> None:
    """By the bundle's float32 plan, else by its ONNX graph on the CPU; either way the images are those of float32."""
    bundle = Bundle(planned)
    if not has_plan:
        copy = Path(shutil.copytree(planned, tmp_path / "bundle"))
        kept = {n: a for n, a in bundle.config.artefacts.items() if not n.startswith("trt/joint/fp32")}
        write_config(copy, bundle, kept)
        bundle = Bundle(copy)
    opened = TrtRunner(bundle, dataclasses.replace(REQUEST, dtype="fp16"))
    half = world.engines[0].contexts[0]
    checks = half.runs

    def overflow(name, output, context):
        if name == "grad" and context is half and half.runs > checks + 2:  # after a flight's warm-up and a step
            output[0] = np.inf
        return output

    world.spoil = overflow
    got = boosted(planned, opened, images, labels, jboost.PGD(3, 0.2), BATCH)
    assert got.records["retried"][0]
    assert not got.records["failed"].any()
    want = boosted(planned, OnnxRunner(Bundle(planned), REQUEST), images, labels, jboost.PGD(3, 0.2), BATCH)
    assert np.abs(got.images.astype(int) - want.images.astype(int)).max() <= 1
    assert len(world.engines) == (3 if has_plan else 2)


@pytest.mark.parametrize(
    ("tensor", "spoil", "figure"),
    [
        ("grad", lambda a: a * 0.4, "grad_median"),
        ("grad", lambda a: -a, "cosine_worst"),
        ("grad", lambda a: a * np.nan, "grad_worst nan"),
        ("class_logit", lambda a: a + 5, "logits_worst"),
        ("predicted", lambda a: (a + 1) % 5, "predicted_wrong"),
    ],
)
def test_a_plan_that_computes_something_else_is_not_served(planned, world, tensor, spoil, figure) -> None:
    world.spoil = lambda name, output, context: spoil(output) if name == tensor else output
    with pytest.raises(FailureError, match=figure) as e:
        TrtRunner(Bundle(planned), REQUEST)
    assert "joint.fp32.plan" in str(e.value)
    assert "\n" not in str(e.value)
    assert world.device.closed


def test_the_forward_pass_is_checked_too(planned, world) -> None:
    def spoil(name, output, context):  # the gradient's engine is the first, the forward pass's the second
        return output + 5 if name == "class_logit" and len(world.engines) == 2 else output

    world.spoil = spoil
    with pytest.raises(FailureError, match=r"forward\.fp32\.plan does not match"):
        TrtRunner(Bundle(planned), REQUEST)


def test_compiled_kernels_are_kept(planned, world) -> None:
    for file in cache_folder().glob("tensorrt_rtx/*"):
        file.unlink()
    with TrtRunner(Bundle(planned), REQUEST):
        kept = list(cache_folder().glob("tensorrt_rtx/*.kernels"))
    assert [file.read_bytes() for file in kept] == [RuntimeCache.valid] * 2
    kept[0].write_bytes(b"of another driver")
    with TrtRunner(Bundle(planned), REQUEST):
        pass
    assert kept[0].read_bytes() == RuntimeCache.valid


def change(tensor, place, value):
    def apply(engine):
        engine.tensors[tensor][place] = value

    return apply


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda e: e.tensors.pop("loss"), "has class_logit, grad, predicted, x, y instead of"),
        (change("grad", 1, DataType.HALF), "grad is HALF instead of FLOAT"),
        (change("y", 1, DataType.INT32), "y is INT32 instead of INT64"),
        (change("x", 0, TensorIOMode.OUTPUT), "x is not an input"),
        (change("loss", 0, TensorIOMode.INPUT), "loss is not an output"),
        (change("x", 2, (BATCH, 3, 8, 8)), r"x has shape \(4, 3, 8, 8\) instead of \(4, 3, 16, 16\)"),
        (change("predicted", 2, (7,)), r"predicted has shape \(7,\)"),
        (change("y", 3, TensorLocation.HOST), "y is not on the device"),
        (change("x", 4, TensorFormat.HWC8), "x is not in linear format"),
    ],
)
def test_inputs_and_outputs_must_be_those_of_a_gradient_graph(planned, world, spoil, complaint, monkeypatch) -> None:
    variant = load_variant("tensorrt_rtx")
    deserialize = variant.trt.Runtime.deserialize_cuda_engine

    def spoiled(self, plan):
        engine = deserialize(self, plan)
        spoil(engine)
        return engine

    monkeypatch.setattr(variant.trt.Runtime, "deserialize_cuda_engine", spoiled)
    plan = (planned / "trt/joint.fp32.plan").read_bytes()
    with pytest.raises(BadInputError, match=complaint):
        TensorRTNetwork(plan, variant, GRADIENT, batch_size=BATCH, shape=(3, SIZE, SIZE), name="joint.plan")


def test_what_tensorrt_refuses_is_told_in_a_line(planned, world) -> None:
    variant = load_variant("tensorrt_rtx")
    options = {"batch_size": BATCH, "shape": (3, SIZE, SIZE), "name": "joint.plan"}
    with pytest.raises(BadInputError, match=r"cannot load joint.plan \(Error Code 1: Serialization \(magic tag"):
        TensorRTNetwork(b"garbage", variant, GRADIENT, **options)
    plan = (planned / "trt/joint.fp32.plan").read_bytes()
    network = TensorRTNetwork(plan, variant, GRADIENT, **options)
    with pytest.raises(FailureError, match="tensor x cannot be placed at 0x101"):
        network.bind(x=0x101)
    network._context.execute_async_v3 = lambda stream: False
    with pytest.raises(FailureError, match=r"TensorRT cannot run joint\.plan"):
        network.enqueue(1)
    world.dynamic, world.largest_batch = True, 2
    with pytest.raises(BadInputError, match="-b 4"):
        TensorRTNetwork(plan, variant, GRADIENT, **options)


def test_a_network_as_a_function(planned, world, images, labels) -> None:
    plan = (planned / "trt/forward.fp16.plan").read_bytes()
    options = {"batch_size": BATCH, "shape": (3, SIZE, SIZE), "name": "forward.plan"}
    network = TensorRTNetwork(plan, load_variant("tensorrt_rtx"), FORWARD, **options)
    x = images[:BATCH].transpose(0, 3, 1, 2).astype(np.float32) / 255
    with network_run(world.device, network, FORWARD, (3, SIZE, SIZE)) as run:
        class_logit, predicted = run(x, labels[:BATCH])
    want = OnnxRunner(Bundle(planned), REQUEST).evaluate(x, labels[:BATCH])
    np.testing.assert_allclose(class_logit, want.class_logit, rtol=1e-5)
    np.testing.assert_array_equal(predicted, want.predicted)


@pytest.mark.parametrize(
    ("options", "cards", "complaint"),
    [
        ({"device": "cpu"}, [CARD], "--device cuda"),
        ({"device": "cuda:1"}, [CARD], "this machine has 1 GPU"),
        ({"dtype": "bf16"}, [CARD], "no trt graphs in bf16; use --engine compile"),
        ({"objective": "logit"}, [CARD], "--objective logit"),
        ({"l0": 1.0}, [CARD], "exported with l0 3.0, not 1.0"),
        ({"batch_size": 64}, [CARD], "batches of 4, not 64; leave -b out, or build it here with: .* -b 64 "),
        (
            {},
            [Gpu("NVIDIA H200", "9.0", 1)],
            r"built for compute capability 8.6, TensorRT-RTX 1.2.3, this GPU is NVIDIA H200",
        ),
        ({}, [], "no GPU today; use --engine onnx"),
    ],
)
def test_why_a_plan_cannot_serve(planned, world, options, cards, complaint, monkeypatch) -> None:
    driver = Driver(None, None, tuple(cards), None if cards else "no GPU today")
    monkeypatch.setattr(plans, "find_driver", lambda: driver)
    request = dataclasses.replace(REQUEST, **options)
    why = why_unusable(Bundle(planned), request)
    assert why is not None
    assert "\n" not in why
    with pytest.raises(BadInputError, match=complaint):
        raise BadInputError(why)


def test_of_the_right_card_version_and_batch_it_can(planned, world) -> None:
    for batch_size in (None, BATCH):
        assert (
            why_unusable(
                Bundle(planned), dataclasses.replace(REQUEST, device="cuda:0", dtype="fp16", batch_size=batch_size)
            )
            is None
        )


def rekeyed(planned, copy, **changes) -> Bundle:
    """A copy in which the sidecar of the float32 gradient says something else, with the right hashes."""
    shutil.copytree(planned, copy)
    bundle = Bundle(copy)
    path = copy / "trt/joint.fp32.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    name = key_name(artefact_name("joint", "fp32", SIZE, "sm_86"))
    entry = dataclasses.replace(artefact_of(copy, "trt/joint.fp32.json"), dtype="fp32", batch_size=BATCH)
    write_config(copy, bundle, bundle.config.artefacts | {name: entry})
    return Bundle(copy)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"version": "1.0"}, "built by TensorRT-RTX 1.0, 1.2.3 is installed; build it here with: jboost export"),
        ({"flavour": "tensorrt", "gpu": CARD.name}, "TensorRT 1.2.3: TensorRT is not installed; .*; or build it here"),
        (
            {"flavour": "tensorrt", "gpu": "NVIDIA A10"},
            r"for NVIDIA A10 \(compute capability 8.6\), .* this GPU is NVIDIA RTX A4000",
        ),
        (
            {"sources": {f"onnx/joint/fp32/{SIZE}": "0" * 64}},
            "built from another gradient.joint.16.fp32.onnx than the bundle's",
        ),
        ({"unknown": 1}, "does not say what its plan is for"),
    ],
)
def test_stale_plans_are_named(planned, world, tmp_path, changes, complaint) -> None:
    bundle = rekeyed(planned, tmp_path / "bundle", **changes)
    with pytest.raises(BadInputError, match=complaint) as e:
        TrtRunner(bundle, REQUEST)
    assert "\n" not in str(e.value)


def test_a_changed_plan_is_refused(planned, world, tmp_path) -> None:
    copy = Path(shutil.copytree(planned, tmp_path / "bundle"))
    (copy / "trt/joint.fp32.plan").write_bytes(b"the plan of joint in fp3!")
    with pytest.raises(BadInputError, match="SHA-256"):
        TrtRunner(Bundle(copy), REQUEST)
    assert world.device.closed


def test_the_driver_is_asked_without_a_package() -> None:
    driver = gpu.find_driver()
    assert (driver.problem is None) == bool(driver.gpus)
    assert Gpu("A", "12.0", 1).sm == "sm_120"


def test_the_engine_needs_no_torch() -> None:
    code = "import sys, jboost.engine.backends.trt.runner; assert not {'torch', 'onnxruntime', 'pycuda'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
