"""A model whose gradient is known in closed form, for the array API and as a network on a device."""

from __future__ import annotations

import array_api_compat
import numpy as np

from jboost.engine.backends.array_runner import ArrayRunner
from jboost.engine.backends.cuda.runner import DeviceRunner
from jboost.engine.loop.runner import Evaluation
from jboost.engine.method.step import Gradient

SHAPE = (3, 5, 3)  # of 45 entries: a multiple of neither 4 nor a block
TARGET = np.linspace(0.2, 0.8, 45, dtype=np.float32).reshape(SHAPE)


class Bowl:
    """f_c(x) = 6 - 4 ||x - target||^2, objective -f_c: one global optimum. The arrays are those of numpy or torch.

    Args:
        target: the optimum, [C, H, W] or a number.
        poison: the first pixel of images whose gradient is NaN.
        overflow: the first pixel of images whose gradient and logit are infinite, but not in float32.
        classes: the class predicted is 0, 1, ... with the first pixel, the last one where it is 1.
    """

    def __init__(self, target=TARGET, *, poison=None, overflow=None, classes=8):
        self.target, self.poison, self.overflow, self.classes = target, poison, overflow, classes
        self.dtype = "fp32" if overflow is None else "fp16"

    def evaluate(self, x):
        xp = array_api_compat.array_namespace(x)
        squares = xp.reshape(self._offset(x) ** 2, (len(x), -1))
        predicted = xp.astype(x[:, 0, 0, 0] * (self.classes - 1), xp.int64)
        return Evaluation(6 - 4 * xp.sum(squares, axis=1), predicted)

    def gradient(self, x, in_float32):
        f_c, predicted = self.evaluate(x)
        grad, first = 8 * self._offset(x), x[:, 0, 0, 0]
        if self.poison is not None:
            grad[first == self.poison] = np.nan
        if self.overflow is not None and not in_float32:
            bad = first == self.overflow
            grad[bad, -1, -1, -1] = np.inf
            f_c[bad] = np.inf
        return Gradient(grad, f_c, -f_c, predicted)

    def _offset(self, x):
        return x - array_api_compat.array_namespace(x).asarray(self.target, dtype=x.dtype)


class NumpyRunner(ArrayRunner):
    """The bowl on numpy arrays; counts what it is asked for."""

    name = device = "numpy"
    batch_size = None

    def __init__(self, bowl):
        self.bowl, self.dtype = bowl, bowl.dtype
        self.steps = self.evaluations = self.retries = 0

    def put(self, array):
        return array

    def get(self, array):
        return array

    def evaluate(self, x, y):
        self.evaluations += 1
        return self.bowl.evaluate(x)

    def gradient(self, x, y, *, in_float32=False):
        self.steps += 1
        self.retries += in_float32
        return self.bowl.gradient(x, in_float32)


class BowlNetwork:
    def __init__(self, device, batch_size, compute, capturable=True):
        self._device, self._compute, self.batch_size, self.capturable = device, compute, batch_size, capturable
        self._addresses: dict[str, int] = {}
        self.runs = self.binds = 0

    def bind(self, **addresses):
        assert all(address % 256 == 0 for address in addresses.values())
        self._addresses = addresses
        self.binds += 1

    def enqueue(self, stream):
        at = dict(self._addresses)

        def work():
            self.runs += 1
            outputs = self._compute(self._array(at, "x"))._asdict()
            assert set(outputs) == set(at) - {"x", "y"}
            for name, output in outputs.items():
                self._array(at, name)[:] = output

        self._device.queue(stream, work)

    def _array(self, at, name):
        dtype = np.int64 if name in ("y", "predicted") else np.float32
        shape = (self.batch_size, *SHAPE) if name in ("x", "grad") else (self.batch_size,)
        return self._device.view(at[name], dtype, shape)


class HostRunner(DeviceRunner):
    name = device = "host"

    def __init__(self, device, bowl, batch_size, *, capturable=True, retries=True):
        self.dtype = bowl.dtype

        def network(compute):
            return BowlNetwork(device, batch_size, compute, capturable)

        self.networks = [network(lambda x: bowl.gradient(x, False)), network(bowl.evaluate)]
        self.float32: list[BowlNetwork] = []

        def float32_network():
            self.float32.append(network(lambda x: bowl.gradient(x, True)))
            return self.float32[-1]

        super().__init__(device, *self.networks, float32_network if retries else None)


class KernelNetwork:
    """The bowl as a kernel, for any device; `probes.cu` has it. `overflow` is a first pixel in levels, or -1."""

    def __init__(self, device, batch_size, target, overflow, in_float32):
        self._device, self.batch_size, self.capturable = device, batch_size, True
        self._target, self._overflow, self._in_float32 = target, overflow, in_float32
        self.stream = None

    def bind(self, **addresses):
        self._at = addresses

    def enqueue(self, stream):
        assert stream == self.stream.handle
        names = ("grad", "class_logit", "loss", "predicted")
        words = [self._at["x"], self._target.address, *(self._at.get(name, 0) for name in names)]
        words += [TARGET.size, self._overflow % 2**64, self._in_float32]
        self._device.launch("probe_bowl", self.batch_size, words, self.stream)


class KernelRunner(DeviceRunner):
    name = device = "kernel"
    dtype = "fp16"

    def __init__(self, device, batch_size, overflow=-1):
        self._target = device.allocate(TARGET.nbytes)
        pinned = device.pinned(TARGET.nbytes)
        pinned[:] = np.frombuffer(TARGET.tobytes(), np.uint8)

        def network(in_float32):
            made = KernelNetwork(device, batch_size, self._target, overflow, in_float32)
            made.stream = getattr(self, "_compute", None)
            return made

        networks = [network(0), network(1)]
        super().__init__(device, *networks, lambda: network(1))
        for made in networks:
            made.stream = self._compute
        device.upload(self._target.address, pinned, self._compute)
        self._compute.synchronize()
