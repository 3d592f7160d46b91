"""TensorRT plans: built without a GPU by TensorRT-RTX, keyed, in the manifest; and what is said where something is missing."""

from __future__ import annotations

import contextlib
import json
import sys
import types

import numpy as np
import onnx
import pytest
import torch

import jboost as public
from jboost.cli.doctor_cuda import cuda_rows
from jboost.engine.backends import registry
from jboost.engine.backends.onnx.cpu import OnnxRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.backends.trt import probe, variant
from jboost.engine.backends.trt.check import Reference, check_forward, check_gradient
from jboost.engine.backends.trt.plans import artefact_name, check_name, machine_key, read_key
from jboost.engine.backends.trt.variant import INSTALL, Variant, load_variant, new_log
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.system import gpu
from jboost.engine.system.cache import cache_folder, write_cached
from jboost.engine.system.gpu import Driver, Gpu
from jboost.export.bundle import export_bundle
from jboost.export.compiled.first_use import model_of
from jboost.export.trt import targets
from jboost.export.trt.builder import _timing_cache, build_plan
from jboost.export.trt.plans import verify_plan, write_reference
from jboost.export.trt.targets import find_targets
from jboost.export.verification.gradient import tolerance

SIZE, BATCH = 16, 8
NO_DRIVER = Driver(None, None, (), "no NVIDIA driver was found (libcuda.so.1 is missing)")
H200 = Gpu("NVIDIA H200", "9.0", 141 << 30)
MACHINES = ("sm_86", "sm_89", "sm_120")


@pytest.fixture(scope="module")
def rtx() -> Variant:
    pytest.importorskip("tensorrt_rtx")
    return load_variant("tensorrt_rtx")


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory, jboost, rtx):
    """The real command, and the bundle that it writes."""
    out = tmp_path_factory.mktemp("plans") / "bundle"
    options = ["--format", "trt", "--gpu", "sm_86,sm_89", "--gpu", "sm_120", "--dtype", "fp32,fp16", "-b", BATCH]
    done = jboost("export", "--ckpt", checkpoint, "-o", out, *options)
    assert done.returncode == 0, done.stderr
    return done, Bundle(out)


def test_plans_are_built_without_a_gpu(exported, rtx) -> None:
    _, bundle = exported
    bundle.check()
    files = {a.file for a in bundle.config.artefacts.values()}
    assert {str(p.relative_to(bundle.path)) for p in bundle.path.glob("trt/*")} <= files
    for machine in MACHINES:
        for dtype in ("fp32", "fp16"):
            for what in ("joint", "forward"):
                name = artefact_name(what, dtype, SIZE, machine)
                entry, key = bundle.artefact(name), read_key(bundle, name)
                assert entry.file == f"trt/{what}.{SIZE}.{dtype}.b{BATCH}.{machine}.plan"
                assert entry.size > 100_000
                assert (entry.batch_size, entry.dtype, entry.resolution) == (BATCH, dtype, SIZE)
                assert (key.flavour, key.version, key.gpu) == ("tensorrt_rtx", rtx.version, None)
                assert (key.batch_size, key.dtype, key.machine) == (BATCH, dtype, machine)
                assert entry.target == f"compute capability {key.compute_capability}, TensorRT-RTX {rtx.version}"
                assert len(key.sources) == 2
                for source, sha256 in key.sources.items():
                    assert bundle.artefact(source).sha256 == sha256


def test_what_was_not_run_says_so(exported) -> None:
    done, bundle = exported
    said = " ".join(done.stderr.split())
    assert "12 TensorRT plans were built without their GPU and not run" in said
    assert "the ONNX graphs are written too" in said
    for entry in bundle.config.artefacts.values():
        is_plan = entry.file.endswith(".plan")
        assert (entry.unverified is not None) == is_plan
        if is_plan:
            assert entry.errors == {}


def test_the_reference_is_eager_autograd_and_a_graph_meets_its_bounds(exported) -> None:
    """The check that whoever opens a plan makes, with the ONNX graph in the plan's place: on either side of its bounds."""
    _, bundle = exported
    reference = Reference.read(bundle.checked_path(check_name(SIZE)), "joint")
    model = model_of(bundle)
    x = torch.from_numpy(reference.x).requires_grad_()
    f_c = model(x).gather(1, torch.from_numpy(reference.y)[:, None]).squeeze(1)
    loss = torch.nn.functional.cross_entropy(model(x), torch.from_numpy(reference.y), reduction="none")
    loss = loss + 0.5 * (torch.nn.functional.softplus(f_c) - 3.0) ** 2  # eq. 12
    (grad,) = torch.autograd.grad(loss.sum(), x)
    np.testing.assert_allclose(reference.grad, grad.numpy(), rtol=0, atol=1e-4 * np.abs(reference.grad).max())
    for dtype in ("fp32", "fp16"):
        key = read_key(bundle, artefact_name("joint", dtype, SIZE, "sm_86"))
        with OnnxRunner(bundle, RunRequest("joint", 3.0, SIZE, dtype=dtype)) as runner:
            for batch in (BATCH, 3, 32):  # one call, a part at the end, and one that is filled up
                check_gradient(runner.gradient, reference, batch, key.bounds, "the graph")
                check_forward(runner.evaluate, reference, batch, key.bounds, "the graph")
            tight = dict.fromkeys(key.bounds, 1e-9)
            with pytest.raises(FailureError, match=r"grad_median .* \(bound 1e-09\)"):
                check_gradient(runner.gradient, reference, BATCH, tight, "the graph")


def test_references_are_the_same_bytes_each_time(exported, tmp_path) -> None:
    _, bundle = exported
    write_reference(tmp_path / "again.npz", model_of(bundle), ("joint",), (3, SIZE, SIZE), 3.0)
    assert (tmp_path / "again.npz").read_bytes() == bundle.checked_path(check_name(SIZE)).read_bytes()
    with pytest.raises(BadInputError, match="no check images for objective logit"):
        Reference.read(tmp_path / "again.npz", "logit")


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("batch", [4, (1, 4)])
def test_static_and_dynamic_batches_build(exported, rtx, dtype, batch) -> None:
    _, bundle = exported
    path = bundle.checked_path(f"onnx/joint/{dtype}/{SIZE}")
    assert len(build_plan(path, rtx, capability="8.6", batch=batch)) > 100_000


@pytest.mark.skipif(bool(gpu.find_driver().gpus), reason="there is a GPU")
def test_a_plan_cannot_even_be_loaded_without_a_gpu(exported, rtx) -> None:
    """Why plans that are built ahead of time stay unverified."""
    _, bundle = exported
    plan = bundle.checked_path(artefact_name("joint", "fp32", SIZE, "sm_86")).read_bytes()
    assert rtx.trt.Runtime(new_log(rtx.trt)).deserialize_cuda_engine(plan) is None


def test_what_cannot_be_parsed_or_built_is_told_in_a_line(exported, rtx, tmp_path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    unknown = onnx.helper.make_node("NoSuchOperator", ["x"], ["x2"])
    graph = onnx.helper.make_graph([unknown], "bad", [value], [onnx.helper.make_empty_tensor_value_info("x2")])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "bad.onnx")
    with pytest.raises(FailureError, match=r"cannot parse bad\.onnx for sm_86 \(.+\)") as e:
        build_plan(tmp_path / "bad.onnx", rtx, capability="8.6", batch=1)
    assert "\n" not in str(e.value)
    path = exported[1].checked_path(f"onnx/joint/fp32/{SIZE}")
    with pytest.raises(FailureError, match=r"cannot build gradient.joint.16.fp32.onnx for sm_86 \(.+\)") as e:
        build_plan(path, rtx, capability="8.6", batch=(4, 1))  # an empty range
    assert "\n" not in str(e.value)


def test_a_gpu_that_is_not_known_is_refused(checkpoint, jboost, tmp_path, rtx) -> None:
    done = jboost("export", "--ckpt", checkpoint, "-o", tmp_path / "b", "--format", "trt", "--gpu", "sm_90")
    assert done.returncode == 2, done.stderr
    assert "does not build for sm_90 (it builds for sm_75, " in " ".join(done.stderr.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"formats": ("trt",), "gpus": ("hopper",)}, "--gpu sm_86 for 8.6"),
        ({"gpus": ("sm_86",)}, "--format trt"),
        ({"formats": ("trt",), "gpus": ("sm_86",), "dtypes": ("bf16",)}, "--dtype fp16"),
    ],
)
def test_bad_options_leave_no_bundle(checkpoint, tmp_path, rtx, options, complaint) -> None:
    with pytest.raises(BadInputError, match=complaint):
        export_bundle(checkpoint, tmp_path / "b", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def machine(monkeypatch):
    """Sets what GPUs and packages there are."""

    def be(driver: Driver = NO_DRIVER, **modules) -> None:
        for where in (targets, probe):
            monkeypatch.setattr(where, "find_driver", lambda: driver)
        for name in ("tensorrt", "tensorrt_rtx", "pycuda", "cuda.bindings"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        found = {name: module for name, module in modules.items() if module is not None}

        def find_spec(name):
            return object() if name.replace(".", "_") in found else None

        def import_module(name):
            if isinstance(found[name], Exception):
                raise found[name]
            return found[name]

        monkeypatch.setattr(variant.importlib.util, "find_spec", find_spec)
        monkeypatch.setattr(variant.importlib, "import_module", import_module)

    return be


def package(version, *capabilities):
    module = types.SimpleNamespace(__version__=version)
    if capabilities:
        module.ComputeCapability = types.SimpleNamespace(__members__=dict.fromkeys(("NONE", "CURRENT", *capabilities)))
    return module


ONE = Driver("580.1", "13.0", (H200,), None)
STUB = ModuleNotFoundError("No module named 'tensorrt_bindings'")
REST = {"pycuda": 1, "cuda_bindings": 1}
TRT, RTX = package("10.9.0"), package("1.7.1", "SM86", "SM120")


@pytest.mark.parametrize(
    ("driver", "modules", "available", "why", "remedy"),
    [
        (NO_DRIVER, {}, False, "no NVIDIA driver", "--engine compile, onnx or eager"),
        (NO_DRIVER, {"tensorrt_rtx": RTX}, False, "no NVIDIA driver", "--gpu sm_86"),
        (ONE, {}, False, "no TensorRT or TensorRT-RTX", INSTALL["tensorrt"]),
        (ONE, {"tensorrt": TRT}, False, "pycuda is not installed", "pip install pycuda"),
        (ONE, {"tensorrt": TRT, "pycuda": 1}, False, "cuda.bindings is not", "pip install cuda-python"),
        (
            ONE,
            {"tensorrt": STUB, **REST},
            False,
            "cannot be imported (ModuleNotFoundError: No module",
            "pypi.nvidia.com",
        ),
        (ONE, {"tensorrt": OSError("libnvinfer.so.10:\n no"), **REST}, False, "OSError: libnvinfer.so.10: no", "pip"),
        (
            ONE,
            {"tensorrt_rtx": RTX, **REST},
            False,
            "TensorRT-RTX 1.7.1 has no kernels for the NVIDIA H200",
            "TensorRT: pip",
        ),
        (ONE, {"tensorrt": TRT, "tensorrt_rtx": RTX, **REST}, True, "TensorRT 10.9.0, NVIDIA H200 (compute", ""),
        (ONE, {"tensorrt": package("x")} | REST, True, "TensorRT x", ""),
    ],
)
def test_the_engine_says_what_it_lacks(machine, driver, modules, available, why, remedy) -> None:
    machine(driver, **modules)
    found = probe.probe()
    assert found.available == available
    assert why in found.why
    assert remedy in found.remedy
    assert "\n" not in found.why + found.remedy


@pytest.mark.parametrize(
    ("driver", "modules", "names", "complaint"),
    [
        (NO_DRIVER, {"tensorrt_rtx": RTX}, (), "no NVIDIA driver was found .* --gpu sm_86"),
        (ONE, {}, (), r"no TensorRT or TensorRT-RTX is installed; pip install"),
        (ONE, {"tensorrt_rtx": RTX}, (), "does not build for the NVIDIA H200 .* install TensorRT: pip"),
        (ONE, {"tensorrt": STUB}, (), "cannot be imported"),
        (
            ONE,
            {"tensorrt": TRT},
            ("sm_86",),
            "--gpu builds with TensorRT-RTX: TensorRT-RTX is not installed; install it: pip",
        ),
        (
            ONE,
            {"tensorrt_rtx": RTX},
            ("sm_90",),
            "does not build for sm_90 .it builds for sm_86, sm_120.*without --gpu",
        ),
    ],
)
def test_what_cannot_be_built_here(machine, driver, modules, names, complaint) -> None:
    machine(driver, **modules)
    with pytest.raises(BadInputError, match=complaint) as e:
        find_targets(names)
    assert "\n" not in str(e.value)


def test_targets(machine) -> None:
    machine(ONE, tensorrt=TRT, tensorrt_rtx=RTX)
    (target,) = find_targets()
    assert (str(target.variant), target.machine, target.gpu) == ("TensorRT 10.9.0", "nvidia-h200-sm_90", H200)
    with pytest.raises(BadInputError, match="has 1 GPU"):
        find_targets(device="cuda:1")
    machine(ONE, tensorrt=STUB, tensorrt_rtx=package("1.8", "SM86", "SM90"))
    (target,) = find_targets()
    assert (target.variant.name, target.machine, target.gpu) == ("tensorrt_rtx", "sm_90", H200)
    other, here = find_targets(("sm_86", "sm_90"))
    assert (other.machine, other.gpu, here.machine, here.gpu) == ("sm_86", None, "sm_90", H200)


def test_kinds_of_gpu_in_names() -> None:
    assert machine_key(None, "12.0") == "sm_120"
    assert machine_key("NVIDIA GeForce RTX 4090 (Laptop)", "8.9") == "nvidia-geforce-rtx-4090-laptop-sm_89"


class Config:
    """A builder's configuration that accepts the timings of one device."""

    def __init__(self):
        self.used, self.asked = None, []

    def create_timing_cache(self, content):
        return content

    def set_timing_cache(self, cache, ignore_mismatch):
        assert not ignore_mismatch
        self.asked.append(cache)
        if cache == b"of another device":
            return False
        self.used = cache
        return True

    def get_timing_cache(self):
        return types.SimpleNamespace(serialize=lambda: memoryview(self.used + b"+"))


def test_timings_are_kept_from_build_to_build(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("JBOOST_CACHE", str(tmp_path / "cache"))
    for expected in (b"", b"+", b"++"):
        with _timing_cache(config := Config(), "tensorrt/a.timings"):
            assert config.used == expected
    write_cached("tensorrt/a.timings", b"of another device")
    with _timing_cache(config := Config(), "tensorrt/a.timings"):
        assert config.asked == [b"of another device", b""]
    assert [file.name for file in (cache_folder() / "tensorrt").iterdir()] == ["a.timings"]
    assert (cache_folder() / "tensorrt/a.timings").read_bytes() == b"+"
    with contextlib.suppress(RuntimeError), _timing_cache(config := Config(), "tensorrt/a.timings"):
        raise RuntimeError("the build failed")
    assert (cache_folder() / "tensorrt/a.timings").read_bytes() == b"+"
    monkeypatch.setenv("JBOOST_CACHE", "/proc/none")  # cannot be written: builds take longer, that is all
    with _timing_cache(config := Config(), "tensorrt/a.timings"):
        assert config.used == b""


class Refusing:
    """A TensorRT whose builder does not start, as TensorRT's own does without a GPU."""

    class ILogger:
        Severity = types.SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    @staticmethod
    def Builder(log):  # noqa: N802
        log.log(1, "CUDA initialization failure with error: 35\nplease")
        raise TypeError("pybind11::init(): factory function returned nullptr")


def test_a_builder_that_does_not_start(tmp_path) -> None:
    with pytest.raises(
        FailureError, match=r"TensorRT 10 cannot start to build g.onnx on this GPU .CUDA init.* 35 please"
    ):
        build_plan(tmp_path / "g.onnx", Variant("tensorrt", "10", Refusing), capability=None, batch=1)


def test_doctor_knows_nvidias_software(jboost) -> None:
    found = json.loads(jboost("doctor", "--json").stdout)
    assert {"engines", "packages", "python", "platform", "gpu", "cuda"} <= set(found)
    cuda = found["cuda"]
    assert (cuda["problem"] is None) == bool(cuda["gpus"])
    assert {"cuDNN", "nvcc", "TensorRT", "TensorRT-RTX", "pycuda", "cuda-python", "ONNX Runtime"} <= set(cuda["parts"])
    for part in cuda["parts"].values():
        assert part["found"] or part["remedy"]
    assert cuda["parts"]["ONNX Runtime"]["found"].endswith("CPU")
    rows = cuda_rows(cuda)
    assert {"driver", *cuda["parts"]} <= {row[0] for row in rows}
    for name, here, _, remedy in rows:
        assert here
        if name in cuda["parts"]:
            assert bool(remedy) == (cuda["parts"][name]["found"] is None)


def test_boosting_with_a_plan_needs_a_gpu(exported, samples, jboost) -> None:
    if registry.ENGINES["trt"].probe().available:
        pytest.skip("there is a GPU")
    done = jboost("boost", samples, "--bundle", exported[1].path, "--engine", "trt")
    assert done.returncode == 2
    assert "engine 'trt' cannot run here" in " ".join(done.stderr.split())


@pytest.mark.gpu
def test_plans_of_this_gpu_match_autograd_and_eager(checkpoint, tmp_path, images, labels) -> None:
    if not registry.ENGINES["trt"].probe().available:
        pytest.skip(registry.ENGINES["trt"].probe().why)
    out = tmp_path / "bundle"
    export_bundle(checkpoint, out, formats=("trt",), dtypes=("fp32", "fp16"), batch_size=BATCH)
    bundle = Bundle(out)
    entries = [a for a in bundle.config.artefacts.values() if a.file.endswith(".plan")]
    assert len(entries) == 4
    for entry in entries:
        assert entry.unverified is None
        assert entry.errors["logits_worst"] < 0.02
    for update in (public.PGD(4, 0.2), public.SGLD(4, 0.005, noise=0.01)):
        results = {}
        for engine in ("eager", "trt"):
            with public.load(out, engine=engine) as booster:
                results[engine] = booster.boost(images, labels, update).images.astype(int)
        assert (results["eager"] == results["trt"]).mean() > 0.995
        assert np.abs(results["eager"] - results["trt"]).max() <= 1
    with public.load(out, engine="trt", dtype="fp16") as booster:
        half = booster.boost(images, labels, public.PGD(4, 0.2)).images.astype(int)
    assert np.abs(half - images).mean() > 1
    (target,) = find_targets()
    path = bundle.path / next(e.file for e in entries if e.objective and e.dtype == "fp32")
    options = {"l0": None, "batch_size": BATCH, "bound": tolerance("fp32", None, None)}
    with pytest.raises(FailureError, match="does not match autograd"):
        verify_plan(
            path, target, model_of(bundle), "logit", (3, SIZE, SIZE), **options
        )  # not what it is the gradient of
