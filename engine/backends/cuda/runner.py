"""The base of the runners that keep the images in flight in a CUDA device's buffers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np

from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.loop.runner import Evaluation
from jboost.engine.method.rounding import NEAREST
from jboost.engine.method.step import Gradient
from jboost.engine.method.updates import Controls

from . import kernels
from .device import Device, OutOfDeviceMemoryError, Stream, mebibytes
from .flight import DeviceFlight
from .layout import Layout
from .network import Binding, Network
from .transfers import Mirror

Numpy = np.ndarray[Any, Any]


class DeviceRunner:
    """A runner on networks that read and write device memory; see `jboost.engine.loop.runner.Runner`.

    Its arrays are numpy arrays; only a flight's buffers stay on the device. All work is queued on one stream. `put`,
    `get` and `gradient` serve measurements and tests, not the loop. A subclass sets the attributes, and frees its
    networks before it leaves this context.

    Args:
        device: the device; the runner closes it on leaving.
        gradient: the objective's gradient graph.
        forward: the forward pass.
        float32: makes the float32 gradient graph, for the same batch size; called when a gradient is not finite for
            the first time. None if there is no such graph, or if `gradient` is float32 itself: an image whose gradient
            is not finite then fails.
        compute: the stream that all networks are queued on; None for a new one.

    Attributes:
        name, device, dtype: as in `Runner`.
        batch_size: the number of images that every call takes.
    """

    name: str
    device: str
    dtype: str
    batch_size: int | None

    def __init__(
        self,
        device: Device,
        gradient: Network,
        forward: Network,
        float32: Callable[[], Network] | None = None,
        *,
        compute: Stream | None = None,
    ):
        self.batch_size = gradient.batch_size
        self._device, self._compute, self._transfers = device, compute or device.stream(), device.stream()
        self._gradient, self._forward = Binding(gradient), Binding(forward)
        self._make_float32, self._float32 = float32, None if float32 else self._gradient
        self._forward_passes: dict[tuple[int, ...], _ForwardPass] = {}
        self._flights: weakref.WeakSet[DeviceFlight] = weakref.WeakSet()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._device.synchronize()
        for flight in self._flights:
            flight.close()
        for buffers in self._forward_passes.values():
            buffers.close()
        self._forward_passes.clear()
        self._device.close()

    def put(self, array: Numpy) -> Numpy:
        """`array` itself."""
        return array

    def get(self, array: Numpy) -> Numpy:
        """`array` itself."""
        return array

    def gradient(self, x: Numpy, y: Numpy, *, in_float32: bool = False) -> Gradient:
        """The objective's gradient for `x` float32 [B, C, H, W], classes `y` int64 [B]; waits for the device."""
        network = self._float32_binding() if in_float32 else self._gradient
        self._check(len(x), network.network)
        each = {"class_logit": (np.float32, y.shape), "loss": (np.float32, y.shape), "predicted": (np.int64, y.shape)}
        images = (np.float32, x.shape)
        with self._room(len(x)):
            tensors = Mirror(self._device, Layout({"x": images, "y": (np.int64, y.shape), "grad": images, **each}))
        tensors.views["x"][:], tensors.views["y"][:] = x, y
        tensors.upload(self._compute)
        network.enqueue(tensors.at, self._compute)
        tensors.download(self._compute)
        self._compute.synchronize()
        answer = Gradient(*(tensors.views[name].copy() for name in Gradient._fields))
        tensors.free()
        return answer

    def evaluate_images(self, images: Numpy, y: Numpy) -> Evaluation:
        """One forward pass on images uint8 [B, H, W, C] with classes `y` int64 [B]; waits for the device."""
        self._check(len(images), self._forward.network)
        if images.shape not in self._forward_passes:
            with self._room(len(images)):
                self._forward_passes[images.shape] = _ForwardPass(self._device, images.shape)
        at, tensors = self._forward_passes[images.shape].at, self._forward_passes[images.shape].tensors
        tensors.views["images"][:], tensors.views["y"][:] = images, y
        tensors.upload(self._compute)
        count, height, width, channels = images.shape
        words = [at["images"], at["x"], channels, height * width]
        self._device.launch(kernels.TO_FLOAT, count, words, self._compute)
        self._forward.enqueue({name: at[name] for name in ("x", "y", "class_logit", "predicted")}, self._compute)
        tensors.download(self._compute, tensors.layout.end("predicted", count))
        self._compute.synchronize()
        return Evaluation(*(tensors.views[name].copy() for name in Evaluation._fields))

    def check_update(self, update_kind: str) -> None:
        """Check that there is a kernel for an update kind.

        Raises:
            BadInputError: there is none.
        """
        kernels.step_kernel(update_kind)

    def flight(
        self,
        update_kind: str,
        controls: Controls,
        count: int,
        shape: tuple[int, int, int],
        rounding: str = NEAREST,
    ) -> DeviceFlight:
        """`count` empty rows for images of `shape` (C, H, W); see `jboost.engine.loop.runner.Runner.flight`."""
        self._check(count, self._gradient.network)
        with self._room(count):
            flight = DeviceFlight(
                self._device,
                self._compute,
                self._transfers,
                self._gradient,
                self._float32_binding,
                update_kind,
                controls,
                count,
                shape,
                rounding,
            )
        self._flights.add(flight)
        return flight

    def _float32_binding(self) -> Binding:
        if self._float32 is None:
            assert self._make_float32 is not None
            network = self._make_float32()
            self._check(self._gradient.network.batch_size, network)
            self._float32 = Binding(network)
        return self._float32

    def _check(self, count: int, network: Network) -> None:
        if count != network.batch_size:
            raise FailureError(f"a network for batches of {network.batch_size} was given {count} images")

    @contextmanager
    def _room(self, count: int) -> Iterator[None]:
        try:
            yield
        except OutOfDeviceMemoryError as e:
            raise BadInputError(
                f"a batch of {count} images does not fit on {self._device.name}: {mebibytes(e.wanted)} more are "
                f"needed, {mebibytes(e.free)} of {mebibytes(self._device.total_memory)} are free; use a smaller batch: "
                f"-b {max(1, count // 2)}"
            ) from e


class _ForwardPass:
    """The buffers of a forward pass. The results come first and the images last, so one short copy gets them."""

    def __init__(self, device: Device, shape: tuple[int, ...]):
        count, height, width, channels = shape
        integers, reals = (np.int64, (count,)), (np.float32, (count,))
        self.tensors = Mirror(
            device, Layout({"class_logit": reals, "predicted": integers, "y": integers, "images": (np.uint8, shape)})
        )
        self._x = device.allocate(4 * count * height * width * channels)
        self.at = {**self.tensors.at, "x": self._x.address}

    def close(self) -> None:
        self.tensors.free()
        self._x.free()
