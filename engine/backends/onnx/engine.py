"""The onnx engine's entry in the registry."""

from __future__ import annotations

import importlib.util

from jboost.engine.backends.engine import Availability, Engine, installed_version
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.loop.runner import Runner


class OnnxEngine(Engine):
    """ONNX Runtime, on a CPU or an NVIDIA GPU."""

    name = "onnx"
    about = "ONNX Runtime"

    def probe(self) -> Availability:
        """Whether ONNX Runtime is installed, under either of its names."""
        for distribution in ("onnxruntime-gpu", "onnxruntime"):
            version = installed_version(distribution)
            if version is not None and importlib.util.find_spec("onnxruntime") is not None:
                return Availability(True, f"{distribution} {version}")
        return Availability(False, "onnxruntime is not installed", "install it: pip install onnxruntime")

    def why_unusable(self, bundle: Bundle, request: RunRequest) -> str | None:
        """Why the engine cannot serve `request` from this bundle on this machine; None if it can."""
        from .graphs import why_unusable

        return why_unusable(bundle, request)

    def open(self, bundle: Bundle, request: RunRequest) -> Runner:
        """An `OnnxRunner` on a CPU, an `OnnxCudaRunner` on a GPU; ``"auto"`` is a GPU if ONNX Runtime can use one."""
        from .graphs import settled_device_kind

        if settled_device_kind(request.device) == "cuda":
            from .gpu import OnnxCudaRunner

            return OnnxCudaRunner(bundle, request)
        from .cpu import OnnxRunner

        return OnnxRunner(bundle, request)
