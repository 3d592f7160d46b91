"""A gradient computed by the CPU for images that are on the GPU: slow, for the few that need float32 and have no plan in it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from jboost.engine.backends.cuda.device import Device
from jboost.engine.backends.cuda.layout import Layout
from jboost.engine.method.step import Gradient


class _Runner(Protocol):
    def gradient(self, x: Any, y: Any) -> Gradient: ...


class HostNetwork:
    """A network of `jboost.engine.backends.cuda.network.Network` that brings its inputs to the host and waits for the answer.

    Args:
        device: where the tensors are.
        runner: computes the gradient of numpy arrays.
        batch_size: B.
        shape: (C, H, W).
    """

    capturable = False

    def __init__(self, device: Device, runner: _Runner, batch_size: int, shape: tuple[int, int, int]):
        self.batch_size = batch_size
        self._device, self._runner, self._stream = device, runner, device.stream()
        images, integers, reals = (
            (np.float32, (batch_size, *shape)),
            (np.int64, (batch_size,)),
            (np.float32, (batch_size,)),
        )
        layout = Layout(
            {"x": images, "y": integers, "grad": images, "class_logit": reals, "loss": reals, "predicted": integers}
        )
        self._views = layout.views(device.pinned(layout.nbytes))
        self._addresses: dict[str, int] = {}

    def bind(self, **addresses: int) -> None:
        """Use these device addresses from now on."""
        self._addresses = addresses

    def enqueue(self, stream: int) -> None:
        """Compute now: what is queued on the stream comes first, and whatever is queued later sees the answer."""
        self._device.synchronize()
        for name in ("x", "y"):
            self._device.download(self._bytes(name), self._addresses[name], self._stream)
        self._stream.synchronize()
        gradient = self._runner.gradient(self._views["x"], self._views["y"])
        for name, array in gradient._asdict().items():
            self._views[name][:] = array
            self._device.upload(self._addresses[name], self._bytes(name), self._stream)
        self._stream.synchronize()

    def _bytes(self, name: str) -> Any:
        return self._views[name].reshape(-1).view(np.uint8)
