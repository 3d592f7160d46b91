"""A CUDA device through pycuda, on the primary context, which torch and all users of the runtime API share."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError, FailureError

from . import kernels
from .capture import CapturedGraph
from .compiler import compile_kernels
from .device import Event, Numpy, OutOfDeviceMemoryError, Stream

# CU_STREAM_NON_BLOCKING: not ordered against the legacy default stream. Without it, work on the default stream would
# also break a capture.
_NON_BLOCKING = 1


def open_device(ordinal: int = 0) -> PycudaDevice:
    """The CUDA device with this number; raises as `PycudaDevice` does."""
    return PycudaDevice(ordinal)


def import_driver() -> Any:
    """`pycuda.driver`.

    Raises:
        BadInputError: pycuda or the NVIDIA driver is missing.
    """
    try:
        import pycuda.driver as driver
    except ModuleNotFoundError as e:
        raise BadInputError(f"this engine needs pycuda ({e}); install it with: pip install pycuda cuda-python") from e
    except ImportError as e:
        raise BadInputError(
            f"pycuda finds no NVIDIA driver ({e}); install the driver, or run on the CPU: --engine compile --device cpu"
        ) from e
    return driver


class PycudaDevice:
    """A device opened through pycuda; see `jboost.engine.backends.cuda.device.Device`.

    Args:
        ordinal: the number of the device.

    Raises:
        BadInputError: pycuda, the driver, the device or a compiler for the kernels is missing; the driver is too old.
    """

    def __init__(self, ordinal: int = 0):
        self._cuda = cuda = import_driver()
        try:
            cuda.init()
            count = cuda.Device.count()
        except cuda.Error as e:
            raise BadInputError(f"no CUDA device can be used ({e}); check the driver with: nvidia-smi") from e
        if not 0 <= ordinal < count:
            raise BadInputError(f"there is no CUDA device {ordinal}; this machine has {count}, numbered from 0")
        device = cuda.Device(ordinal)
        self.name: str = device.name()
        self.compute_capability: tuple[int, int] = device.compute_capability()
        self.total_memory: int = device.total_memory()
        self._functions: dict[str, Any] = {}
        self._modules: list[Any] = []
        self._context = _primary_context(ordinal)
        self._context.push()
        atexit.register(self.close)  # pycuda aborts the process if a context is left pushed
        try:
            self.load(kernels.source())
        except BaseException:
            self.close()
            raise

    def load(self, source: str) -> None:
        """Compile CUDA C++ and make its kernels available to `launch`."""
        cubin = compile_kernels(source, self.compute_capability)
        try:
            self._modules.append(self._cuda.module_from_buffer(cubin))
        except self._cuda.Error as e:
            version = self._cuda.get_driver_version()
            raise BadInputError(
                f"the NVIDIA driver (CUDA {version // 1000}.{version % 1000 // 10}) cannot load the kernels ({e}); "
                "update the driver, or install a CUDA compiler that is no newer than the driver"
            ) from e

    def free_memory(self) -> int:
        """Bytes that are free now."""
        free: int = self._cuda.mem_get_info()[0]
        return free

    def allocate(self, nbytes: int) -> _Buffer:
        """Device memory, filled with zeros."""
        try:
            allocation = self._cuda.mem_alloc(nbytes)
        except self._cuda.MemoryError as e:
            raise OutOfDeviceMemoryError(nbytes, self.free_memory()) from e
        self._cuda.memset_d8(int(allocation), 0, nbytes)
        self._cuda.Context.synchronize()  # the fill was on the default stream, and our streams do not wait for it
        return _Buffer(allocation, nbytes)

    def pinned(self, nbytes: int) -> Numpy:
        """uint8 [nbytes] in page-locked memory."""
        try:
            array: Numpy = self._cuda.pagelocked_empty(nbytes, np.uint8)
        except self._cuda.MemoryError as e:
            raise FailureError(
                f"the system cannot provide {nbytes} bytes of page-locked memory; use a smaller batch: -b N"
            ) from e
        return array

    def stream(self) -> _Stream:
        """A new stream."""
        return _Stream(self._cuda.Stream(_NON_BLOCKING))

    def event(self) -> _Event:
        """A new event."""
        return _Event(self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING))

    def upload(self, address: int, source: Numpy, stream: Stream) -> None:
        """Queue a copy to the device."""
        self._cuda.memcpy_htod_async(address, source, _of(stream))

    def download(self, target: Numpy, address: int, stream: Stream) -> None:
        """Queue a copy to the host."""
        self._cuda.memcpy_dtoh_async(target, address, _of(stream))

    def launch(self, kernel: str, blocks: int, words: Sequence[int], stream: Stream) -> None:
        """Queue a kernel."""
        if kernel not in self._functions:
            self._functions[kernel] = self._function(kernel).prepare("Q" * len(words))  # 64-bit words
        self._functions[kernel].prepared_async_call((blocks, 1), (kernels.THREADS, 1, 1), _of(stream), *words)

    def _function(self, kernel: str) -> Any:
        for module in self._modules:
            try:
                return module.get_function(kernel)
            except self._cuda.LogicError:  # the kernel is not in this module
                continue
        raise KeyError(kernel)

    def capture(self, stream: Stream, work: Callable[[], None]) -> _Graph:
        """The work that `work` queues on `stream`, as a graph."""
        return _Graph(CapturedGraph(stream.handle, work))

    def synchronize(self) -> None:
        """Wait for everything on every stream."""
        self._cuda.Context.synchronize()

    def close(self) -> None:
        """Leave the context; a second call does nothing."""
        if self._context is not None:
            self._functions.clear()
            self._modules.clear()
            self._context.pop()
            self._context = None
            atexit.unregister(self.close)


@cache
def _primary_context(ordinal: int) -> Any:
    """The primary context, kept until the end of the process, so pycuda's objects in it can be freed until then."""
    context = import_driver().Device(ordinal).retain_primary_context()
    # By itself pycuda would detach it as an ordinary context and report an error.
    atexit.register(context.detach)
    return context


class _Buffer:
    def __init__(self, allocation: Any, nbytes: int):
        self._allocation, self.address, self.nbytes = allocation, int(allocation), nbytes

    def free(self) -> None:
        self._allocation.free()


class _Stream:
    def __init__(self, stream: Any):
        self.pycuda, self.handle = stream, int(stream.handle)

    def wait(self, event: Event) -> None:
        assert isinstance(event, _Event)
        self.pycuda.wait_for_event(event.pycuda)

    def synchronize(self) -> None:
        self.pycuda.synchronize()


class _Event:
    def __init__(self, event: Any):
        self.pycuda = event

    def record(self, stream: Stream) -> None:
        self.pycuda.record(_of(stream))

    def done(self) -> bool:
        return bool(self.pycuda.query())

    def synchronize(self) -> None:
        self.pycuda.synchronize()


class _Graph:
    def __init__(self, captured: CapturedGraph):
        self._captured = captured

    def launch(self, stream: Stream) -> None:
        self._captured.launch(stream.handle)


def _of(stream: Stream) -> Any:
    """The pycuda stream."""
    assert isinstance(stream, _Stream)
    return stream.pycuda
