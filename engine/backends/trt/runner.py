"""Run a bundle's TensorRT plans on the GPU; each is compared with eager autograd before its first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from jboost.engine.backends.cuda.network import Network
from jboost.engine.backends.cuda.pycuda_device import open_device
from jboost.engine.backends.cuda.runner import DeviceRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.system.devices import DeviceName
from jboost.engine.system.environment import CUDA, check_environment

from .check import Check, Reference, check_forward, check_gradient
from .network import FORWARD, GRADIENT, Tensor, TensorRTNetwork, network_run
from .on_host import HostNetwork
from .plans import Plan, check_name, find_plan, forward_name, read_key
from .variant import load_variant


class TrtRunner(DeviceRunner):
    """Run a bundle's plans; a whole step runs on the GPU.

    Args:
        bundle: an opened bundle; plans are checked against the manifest's hashes.
        request: the computation, on ``"auto"``, ``"cuda"`` or ``"cuda:N"``.

    Raises:
        BadInputError: the bundle has no plan for this request on this machine, or a package or file is missing.
        FailureError: a plan does not match eager autograd on this GPU.
    """

    name = "trt"

    def __init__(self, bundle: Bundle, request: RunRequest):
        check_environment(CUDA)
        plan, resolution = find_plan(bundle, request), request.resolution
        self.dtype, self.device = request.dtype, "cuda" if request.device == "auto" else request.device
        self._bundle, self._request = bundle, request
        self._shape = (bundle.config.in_channels, resolution, resolution)
        self._reference = Reference.read(bundle.checked_path(check_name(resolution)), request.objective)
        self._networks: list[TensorRTNetwork] = []
        self._opened = open_device(DeviceName.parse(request.device).index)
        try:
            gradient = self._gradient_network(plan)
            forward = self._forward_network(forward_name(request.dtype, resolution, plan.key.machine))
            super().__init__(self._opened, gradient, forward, self._float32_network(plan))
        except BaseException:
            self._free()
            self._opened.close()
            raise

    def __exit__(self, *exc: object) -> None:
        self._opened.synchronize()
        self._free()
        super().__exit__(*exc)

    def _free(self) -> None:
        for network in self._networks:
            network.close()
        self._networks.clear()

    def _checked(self, plan: Plan, tensors: tuple[Tensor, ...], check: Check) -> Network:
        network = self._open(plan, tensors)
        with network_run(self._opened, network, tensors, self._shape) as run:
            check(run, self._reference, plan.key.batch_size, plan.key.bounds, self._file(plan))
        network.settle(self._opened.stream().handle)
        return network

    def _gradient_network(self, plan: Plan) -> Network:
        return self._checked(plan, GRADIENT, check_gradient)

    def _forward_network(self, name: str) -> Network:
        return self._checked(Plan(name, read_key(self._bundle, name)), FORWARD, check_forward)

    def _file(self, plan: Plan) -> str:
        return self._bundle.artefact(plan.name).file

    def _open(self, plan: Plan, tensors: tuple[Tensor, ...]) -> TensorRTNetwork:
        content = self._bundle.checked_path(plan.name).read_bytes()
        network = TensorRTNetwork(
            content,
            load_variant(plan.key.flavour),
            tensors,
            batch_size=plan.key.batch_size,
            shape=self._shape,
            name=self._file(plan),
            cache=f"tensorrt_rtx/{self._bundle.artefact(plan.name).sha256[:32]}.kernels",
        )
        self._networks.append(network)
        return network

    def _float32_network(self, plan: Plan) -> Callable[[], Network] | None:
        """Return a function that opens the float32 gradient: the plan, else the ONNX graph on the CPU; None without either."""
        if self.dtype == "fp32":
            return None
        try:
            float32 = find_plan(self._bundle, replace(self._request, dtype="fp32", batch_size=plan.key.batch_size))
        except BadInputError:
            return self._onnx_network(plan.key.batch_size)
        return lambda: self._gradient_network(float32)

    def _onnx_network(self, batch_size: int) -> Callable[[], Network] | None:
        from jboost.engine.backends.onnx.cpu import OnnxRunner
        from jboost.engine.backends.onnx.graphs import why_unusable as why_no_onnx

        request = replace(self._request, device="cpu", dtype="fp32")
        if why_no_onnx(self._bundle, request) is not None:
            return None
        return lambda: HostNetwork(self._opened, OnnxRunner(self._bundle, request), batch_size, self._shape)
