"""The onnx engine on an NVIDIA GPU: ONNX Runtime's CUDA provider on device buffers, then the fused step kernel."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from jboost.engine.backends.cuda.flight import DeviceFlight
from jboost.engine.backends.cuda.pycuda_device import PycudaDevice
from jboost.engine.backends.cuda.runner import DeviceRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, FailureError, one_line
from jboost.engine.loop.runner import Evaluation
from jboost.engine.method.rounding import NEAREST
from jboost.engine.method.step import Gradient
from jboost.engine.method.updates import Controls
from jboost.engine.system.devices import DeviceName

from .graphs import artefact_name, checked_graph, forward_name
from .session import CUDA_PROVIDER, open_session

Numpy = np.ndarray[Any, Any]
#: The most CUDA graphs of one session, which keeps every graph. Later sets of addresses run without a graph.
_MOST_GRAPHS = 8


class OnnxCudaRunner(DeviceRunner):
    """Runs a bundle's ONNX gradient graph on a GPU.

    Args:
        bundle: an opened bundle; the graph and its weights are checked against the manifest's hashes.
        request: what to compute; the bundle has graphs for it. Its device is ``"auto"``, ``"cuda"`` or ``"cuda:N"``.
            float32 means float32: TF32 is off.

    Raises:
        BadInputError: the graph is missing or changed, or ONNX Runtime does not run all of it on the GPU.
    """

    name = "onnx"

    def __init__(self, bundle: Bundle, request: RunRequest):
        objective, resolution, dtype = request.objective, request.resolution, request.dtype
        self.device = "cuda" if request.device == "auto" else request.device
        self.dtype = dtype
        number = DeviceName.parse(self.device).index
        shape = (bundle.config.in_channels, resolution, resolution)
        self._networks: list[OrtNetwork] = []
        opened = PycudaDevice(number)
        stream = opened.stream()

        def network(name: str) -> OrtNetwork:
            made = OrtNetwork(checked_graph(bundle, name), shape, number, stream.handle)
            self._networks.append(made)
            return made

        float32_name = artefact_name(objective, "fp32", resolution)

        def float32() -> OrtNetwork:
            made = network(float32_name)
            made.batch_size = self._networks[0].batch_size
            return made

        has_float32 = dtype != "fp32" and float32_name in bundle.config.artefacts
        try:
            gradient = network(artefact_name(objective, dtype, resolution))
            forward = network(forward_name(dtype, resolution))
            super().__init__(opened, gradient, forward, float32 if has_float32 else None, compute=stream)
        except BaseException:
            self._networks.clear()
            opened.close()
            raise
        self.batch_size = None

    def __exit__(self, *exc: object) -> None:
        for network in self._networks:
            network.close()
        super().__exit__(*exc)

    def gradient(self, x: Numpy, y: Numpy, *, in_float32: bool = False) -> Gradient:
        """The objective's gradient for `x` float32 [B, C, H, W], classes `y` int64 [B], any B."""
        self._resize(len(x))
        return super().gradient(x, y, in_float32=in_float32)

    def evaluate_images(self, images: Numpy, y: Numpy) -> Evaluation:
        """One forward pass on images uint8 [B, H, W, C] with classes `y` int64 [B], any B."""
        self._resize(len(images))
        return super().evaluate_images(images, y)

    def flight(
        self,
        update_kind: str,
        controls: Controls,
        count: int,
        shape: tuple[int, int, int],
        rounding: str = NEAREST,
    ) -> DeviceFlight:
        """`count` empty rows for images of `shape` (C, H, W), which move by `update_kind` and `controls`."""
        self._resize(count)
        return super().flight(update_kind, controls, count, shape, rounding)

    def _resize(self, count: int) -> None:
        if self._networks[0].batch_size != count:
            if len(self._flights):
                raise FailureError(f"the images in flight use batches of {self._networks[0].batch_size}, not {count}")
            for network in self._networks:
                network.batch_size = count


class OrtNetwork:
    """An ONNX graph in ONNX Runtime's CUDA provider; see `jboost.engine.backends.cuda.network.Network`.

    ONNX Runtime captures its own CUDA graph for each set of addresses. That graph cannot be part of another, so the
    network is not capturable.

    Args:
        path: the graph.
        shape: (C, H, W).
        number: the device's number.
        stream: handle of the stream that the runs are queued on.

    Attributes:
        batch_size: may be changed while nothing is bound.

    Raises:
        BadInputError: ONNX Runtime cannot load the graph, or would run some or all of it on the CPU.
    """

    capturable = False

    def __init__(self, path: Path, shape: tuple[int, int, int], number: int, stream: int):
        self.batch_size = 0
        self._path, self._shape, self._number, self._stream = path, shape, number, stream
        try:  # ONNX Runtime refuses CUDA graphs for some networks; only the message of its error says so
            self._session, self._graphs = _open(path, number, stream, graphs=True), True
        except BadInputError:
            self._session, self._graphs = _open(path, number, stream, graphs=False), False
        self._bound: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        self._now: tuple[Any, Any] | None = None

    def bind(self, **addresses: int) -> None:
        """Use these device addresses from the next `enqueue` on."""
        key = (self.batch_size, *sorted(addresses.items()))
        if (known := self._bound.get(key)) is not None:
            self._now = known
        elif self._graphs and len(self._bound) < _MOST_GRAPHS:
            self._now = self._bound[key] = self._binding(addresses), self._options(len(self._bound) + 1)
        else:
            self._now = self._binding(addresses), self._options(None)

    def _binding(self, addresses: dict[str, int]) -> Any:
        binding = self._session.io_binding()
        for bind, nodes in (
            (binding.bind_input, self._session.get_inputs()),
            (binding.bind_output, self._session.get_outputs()),
        ):
            for node in nodes:
                shape = (self.batch_size, *self._shape) if node.name in ("x", "grad") else (self.batch_size,)
                dtype = np.int64 if node.name in ("y", "predicted") else np.float32
                bind(node.name, "cuda", self._number, dtype, shape, addresses[node.name])
        return binding

    def _options(self, graph: int | None) -> Any:
        options = ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        if self._graphs:
            options.add_run_config_entry("gpu_graph_id", str(-1 if graph is None else graph))
        return options

    def enqueue(self, stream: int) -> None:
        """Queue one run.

        Raises:
            FailureError: ONNX Runtime fails, the network was opened on another stream, or nothing is bound.
        """
        if stream != self._stream or self._now is None:
            raise FailureError(f"{self._path.name} was opened on another stream, or is not bound")
        try:
            self._session.run_with_iobinding(*self._now)
        except Exception as e:  # onnxruntime raises its own hierarchy, and RuntimeError
            raise FailureError(f"ONNX Runtime cannot run {self._path.name} on the GPU: {one_line(e)}") from e

    def close(self) -> None:
        """Free the device's memory. No run may be queued."""
        self._bound.clear()
        self._now = self._session = None


def _open(path: Path, number: int, stream: int, *, graphs: bool) -> Any:
    _preload()
    _check_cudnn(path)
    # ONNX Runtime falls back to the CPU silently. This entry makes it refuse a graph that is not all on the GPU. With
    # CUDA graphs ONNX Runtime checks this itself, and allows the shape operators, which it always puts on the CPU.
    config = {} if graphs else {"session.disable_cpu_ep_fallback": "1"}
    how = {
        "device_id": str(number), "user_compute_stream": str(stream), "enable_cuda_graph": str(int(graphs)),
        "use_tf32": "0",
        # The default tries every algorithm of every convolution for each new batch size.
        "cudnn_conv_algo_search": "HEURISTIC",
    }  # fmt: skip
    session = open_session(
        path,
        f"{path.name} on the GPU",
        providers=[(CUDA_PROVIDER, how)],
        config=config,
        remedy="see: jboost doctor",
    )
    if session.get_providers()[0] != CUDA_PROVIDER:
        raise BadInputError(
            f"ONNX Runtime {ort.__version__} fell back to the CPU: its CUDA provider does not find CUDA 13 or cuDNN 9; "
            "see: jboost doctor, or use --device cpu"
        )
    return session


def _check_cudnn(path: Path) -> None:
    """Check for cuDNN: without it ONNX Runtime 1.31 opens a session, then fails at the first convolution."""
    if sys.platform != "linux" or CUDA_PROVIDER not in ort.get_available_providers():
        return
    try:
        ctypes.CDLL("libcudnn.so.9")
    except OSError as e:
        raise BadInputError(
            f"ONNX Runtime {ort.__version__} cannot run {path.name} on the GPU without cuDNN 9; install it: "
            "pip install nvidia-cudnn-cu13 (see: jboost doctor), or use --device cpu"
        ) from e


@cache
def _preload() -> None:
    """Load CUDA and cuDNN from NVIDIA's packages anywhere on the path; ONNX Runtime searches only beside itself."""
    # 1.31 warns at each session that its CUDA provider is not a plug-in, and prints an error for each fused convolution that
    # cuDNN cannot plan (90 for a ResNet-50 on an H200), which it then runs in another way. What stops it is raised.
    ort.set_default_logger_severity(4)
    # It prints each library that it does not find; only the session's providers matter.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
        found = importlib.util.find_spec("nvidia")
        for folder in () if found is None else found.submodule_search_locations or ():
            for libraries in Path(folder).glob("cu1[0-9]/lib"):
                ort.preload_dlls(cudnn=False, directory=str(libraries))
            if (cudnn := Path(folder, "cudnn", "lib")).is_dir():
                ort.preload_dlls(cuda=False, directory=str(cudnn))
