"""The onnx engine's CUDA side on a host device, with the CPU provider in the CUDA provider's place: everything but CUDA itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest
from host_device import HostDevice
from public_api import boosted

import jboost
from jboost.engine.backends.onnx import gpu as onnx_cuda
from jboost.engine.backends.onnx.cpu import OnnxRunner
from jboost.engine.backends.onnx.gpu import OnnxCudaRunner
from jboost.engine.backends.onnx.graphs import artefact_name, checked_graph
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, FailureError

SIZE = 16
REQUEST = RunRequest("joint", 3.0, SIZE)


class Session:
    """ONNX Runtime's CUDA provider, as far as its documentation tells.

    A binding keeps addresses. With graphs, the first run under an id captures, and every later one under that id replays what was
    captured, whatever its binding says. The id -1 does neither.
    """

    def __init__(self, world, path, stream, graphs):
        self.world, self.path, self.stream, self.graphs = world, path, stream, graphs
        self.session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.captured, self.runs = {}, 0

    def get_inputs(self):
        return self.session.get_inputs()

    def get_outputs(self):
        return self.session.get_outputs()

    def io_binding(self):
        return Binding()

    def run_with_iobinding(self, binding, options):
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        tensors = dict(binding.tensors)
        if self.graphs and (graph := options.get_run_config_entry("gpu_graph_id")) != "-1":
            tensors = self.captured.setdefault(graph, tensors)

        def work():
            self.runs += 1
            arrays = {name: self.world.device.view(*tensor) for name, tensor in tensors.items()}
            names = [output.name for output in self.get_outputs()]
            for name, output in zip(names, self.session.run(names, {n: arrays[n] for n in ("x", "y")}), strict=True):
                arrays[name][:] = self.world.spoil(name, output, self)

        self.world.device.queue(self.stream, work)


class Binding:
    def __init__(self):
        self.tensors = {}

    def _bind(self, name, device_kind, number, dtype, shape, address):
        assert (device_kind, number) == ("cuda", 1)
        self.tensors[name] = (address, dtype, shape)

    bind_input = bind_output = _bind


class World:
    """What a test sets, and what was opened."""

    def __init__(self, emulator, schedule):
        self.device, self.sessions, self.graphs = HostDevice(emulator, schedule=schedule), [], True
        self.spoil = lambda name, output, session: output

    def open(self, path, number, stream, *, graphs):
        if graphs and not self.graphs:
            raise BadInputError("this session cannot use the graph capture feature")
        assert number == 1
        self.sessions.append(Session(self, path, stream, graphs))
        return self.sessions[-1]


@pytest.fixture(params=["lazy", 1])
def world(emulator, monkeypatch, request) -> World:
    made = World(emulator, request.param)
    monkeypatch.setattr(onnx_cuda, "PycudaDevice", lambda number: made.device)
    monkeypatch.setattr(onnx_cuda, "_open", made.open)
    return made


def opened(bundle, dtype="fp32") -> OnnxCudaRunner:
    return OnnxCudaRunner(Bundle(bundle), replace(REQUEST, device="cuda:1", dtype=dtype))


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("update", [jboost.PGD(4, 0.2), jboost.SGLD(4, 0.005, noise=0.01)])
def test_images_are_those_of_the_cpu_provider(bundle, world, images, labels, update, graphs) -> None:
    world.graphs = graphs
    got = boosted(bundle, opened(bundle), images, labels, update, batch_size=6)
    want = boosted(bundle, OnnxRunner(Bundle(bundle), REQUEST), images, labels, update, batch_size=6)
    a, b = got.images.astype(int), want.images.astype(int)
    assert (a == b).mean() > 0.999
    assert np.abs(a - b).max() <= 1
    assert (got.summary.engine, got.summary.device, got.summary.batch_size) == ("onnx", "cuda:1", 6)
    assert got.summary.realness_after == pytest.approx(want.summary.realness_after, rel=1e-3)
    assert [session.graphs for session in world.sessions] == [graphs] * 2
    assert world.device.graphs == 0  # ONNX Runtime's own graph cannot be part of another
    assert world.device.closed
    assert not world.device.buffers


def test_any_batch_size_one_after_the_other(bundle, world, images, labels) -> None:
    """A captured graph is replayed for its own addresses alone."""
    x = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    with OnnxRunner(Bundle(bundle), REQUEST) as reference, opened(bundle) as runner:
        for count in (5, 23, 1, 5, 23):
            got, want = runner.gradient(x[:count], labels[:count]), reference.gradient(x[:count], labels[:count])
            np.testing.assert_allclose(got.grad, want.grad, rtol=1e-4, atol=1e-6)
            np.testing.assert_array_equal(got.predicted, want.predicted)
            seen = runner.evaluate_images(images[:count], labels[:count])
            np.testing.assert_allclose(seen.class_logit, want.class_logit, rtol=1e-4, atol=1e-5)
        assert all(0 < len(session.captured) <= 8 for session in world.sessions)
        flight = runner.flight("pgd-l2", jboost.PGD(2, 0.2).controls(), 4, (3, SIZE, SIZE))
        with pytest.raises(FailureError, match="in flight use batches of 4, not 7"):
            runner.gradient(x[:7], labels[:7])
        flight.close()


def test_a_gradient_that_overflows_is_computed_again_in_float32(half, world, images, labels) -> None:
    runner = opened(half, "fp16")
    gradient = world.sessions[0]

    def overflow(name, output, session):
        if name == "grad" and session is gradient and session.runs > 2:
            output[0] = np.inf
        return output

    world.spoil = overflow
    got = boosted(half, runner, images, labels, jboost.PGD(3, 0.2), batch_size=6)
    assert got.records["retried"].any()
    assert not got.records["failed"].any()
    float32 = checked_graph(Bundle(half), artefact_name("joint", "fp32", SIZE))
    assert [session.path for session in world.sessions[2:]] == [float32]
    want = boosted(half, OnnxRunner(Bundle(half), REQUEST), images, labels, jboost.PGD(3, 0.2), batch_size=6)
    apart = np.abs(got.images.astype(int) - want.images.astype(int))
    assert apart.max() <= 3  # half of its steps are fp16's


def test_an_image_whose_gradient_fails_in_float32_alone_fails(bundle, world, images, labels) -> None:
    world.spoil = lambda name, output, session: np.where(np.arange(len(output)) == 0, np.nan, output.T).T.astype(
        output.dtype
    ) if name == "grad" and session.runs > 3 else output  # fmt: skip
    got = boosted(bundle, opened(bundle), images, labels, jboost.PGD(3, 0.2), batch_size=6)
    assert 0 < got.records["failed"].sum() < len(images)


def test_what_cannot_be_opened_gives_the_device_back(bundle, world, monkeypatch) -> None:
    def refuse(*args, **options):
        raise BadInputError("ONNX Runtime fell back to the CPU")

    monkeypatch.setattr(onnx_cuda, "_open", refuse)
    with pytest.raises(BadInputError, match="fell back"):
        opened(bundle)
    assert world.device.closed


def test_a_session_that_fell_back_to_the_cpu_is_refused(bundle, monkeypatch) -> None:
    """ONNX Runtime does so silently: this one has no CUDA provider, and opens the graph all the same."""
    monkeypatch.setattr(
        onnx_cuda, "_check_cudnn", lambda path: None
    )  # which is asked before, where there is such a provider
    path = checked_graph(Bundle(bundle), artefact_name("joint", "fp32", SIZE))
    with pytest.raises(BadInputError, match=r"ONNX Runtime .* GPU|fell back to the CPU") as e:
        onnx_cuda._open(path, 0, 0, graphs=True)
    assert "jboost doctor" in str(e.value)
    assert "\n" not in str(e.value)


def test_without_cudnn_it_says_so_when_it_opens(monkeypatch, tmp_path) -> None:
    """ONNX Runtime would, at the first convolution."""

    class Everything:
        def get_providers(self):
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def no_library(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ort, "get_available_providers", Everything().get_providers)
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, **__: Everything())
    monkeypatch.setattr(onnx_cuda, "_preload", lambda: None)
    monkeypatch.setattr(onnx_cuda.ctypes, "CDLL", no_library)
    with pytest.raises(BadInputError, match=r"gradient\.onnx .* without cuDNN 9; install it: pip install nvidia-cudnn"):
        onnx_cuda._open(tmp_path / "gradient.onnx", 0, 0, graphs=True)
    monkeypatch.setattr(onnx_cuda.ctypes, "CDLL", lambda name: None)
    assert isinstance(onnx_cuda._open(tmp_path / "gradient.onnx", 0, 0, graphs=True), Everything)
