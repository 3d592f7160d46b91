"""The onnx engine on a CPU: a bundle's gradient graph in ONNX Runtime. It needs only numpy and onnxruntime."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import onnxruntime as ort

from jboost.engine.backends.array_runner import ArrayRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.loop.runner import Evaluation
from jboost.engine.method.step import Gradient

from .graphs import artefact_name, checked_graph, forward_name
from .session import open_session


class OnnxRunner(ArrayRunner):
    """Runs a bundle's ONNX gradient graph on the CPU, with inputs and outputs bound to its own buffers.

    Args:
        bundle: an opened bundle; the graph and its weights are checked against the manifest's hashes.
        request: what to compute; the bundle has graphs for it. The runner ignores its device.

    Raises:
        BadInputError: the bundle lacks the graph, or the graph's file is changed or unreadable.
    """

    name = "onnx"
    device = "cpu"
    batch_size: int | None = None

    def __init__(self, bundle: Bundle, request: RunRequest):
        self.dtype = request.dtype
        self._bundle, self._objective, self._resolution = bundle, request.objective, request.resolution
        self._checked: set[str] = set()
        self._session = self._open(artefact_name(request.objective, request.dtype, request.resolution))
        self._forward = self._open(forward_name(request.dtype, request.resolution))
        self._float32: ort.InferenceSession | None = None
        self._bindings: dict[tuple[int, ...], _Binding] = {}

    def _open(self, name: str) -> ort.InferenceSession:
        path = checked_graph(self._bundle, name, self._checked)
        return open_session(path, str(path), remedy="export the bundle again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._bindings.clear()
        del self._session, self._forward
        self._float32 = None

    def put(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """`array` itself: the device is the CPU."""
        return array

    def get(self, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """`array` itself."""
        return array

    def gradient(self, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], *, in_float32: bool = False) -> Gradient:
        """The objective's gradient for `x` float32 [B, C, H, W], classes `y` int64 [B].

        The next call overwrites the buffer ``grad``. `in_float32` uses the bundle's float32 graph, if there is one.
        """
        if in_float32 and self.dtype != "fp32":
            name = artefact_name(self._objective, "fp32", self._resolution)
            if name not in self._bundle.config.artefacts:
                return self.gradient(x, y)  # not finite again, so the loop counts the image as failed
            self._float32 = self._float32 or self._open(name)
            grad, class_logit, loss, predicted = self._float32.run(None, {"x": x, "y": y})
            return Gradient(grad, class_logit, loss, predicted)
        if x.shape not in self._bindings:
            self._bindings[x.shape] = _Binding(self._session, x.shape)
        return self._bindings[x.shape].run(self._session, x, y)

    def evaluate(self, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> Evaluation:
        """Class logit and prediction for `x`."""
        class_logit, predicted = self._forward.run(None, {"x": np.ascontiguousarray(x), "y": y})
        return Evaluation(class_logit, predicted)


class _Binding:
    """Inputs and outputs at fixed addresses, so a step allocates nothing."""

    def __init__(self, session: ort.InferenceSession, shape: tuple[int, ...]):
        batch = shape[0]
        self.x, self.y = np.empty(shape, np.float32), np.empty(batch, np.int64)
        self.grad = np.empty(shape, np.float32)
        self.class_logit, self.loss = np.empty(batch, np.float32), np.empty(batch, np.float32)
        self.predicted = np.empty(batch, np.int64)
        self._io = session.io_binding()
        for name in ("x", "y"):
            array = getattr(self, name)
            self._io.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name in Gradient._fields:
            array = getattr(self, name)
            self._io.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)

    def run(self, session: ort.InferenceSession, x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> Gradient:
        np.copyto(self.x, x)
        np.copyto(self.y, y)
        session.run_with_iobinding(self._io)
        # Copies, because the loop keeps these after the next call; they are small.
        return Gradient(self.grad, self.class_logit.copy(), self.loss.copy(), self.predicted.copy())
