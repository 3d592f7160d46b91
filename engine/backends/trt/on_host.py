"""Compute the gradient of images on the GPU on the CPU: slow, for the few float32 retries without a float32 plan."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from jboost.engine.backends.cuda.device import Device
from jboost.engine.backends.cuda.layout import Layout
from jboost.engine.method.step import Gradient


class _Runner(Protocol):
    def gradient(self, x: Any, y: Any) -> Gradient: ...


class HostNetwork:
    """A `jboost.engine.backends.cuda.network.Network` that copies its inputs to the host and waits for the result.

    Args:
        device: the device that holds the tensors.
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
        """Set each tensor's address on the device, by name."""
        self._addresses = addresses

    def enqueue(self, stream: int) -> None:
        """Compute now, after everything queued on the stream; work queued later sees the result."""
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
