"""Load a plan onto the GPU, ready to be queued on a stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from jboost.engine.backends.cuda.device import Device
from jboost.engine.backends.cuda.layout import Layout
from jboost.engine.backends.cuda.network import Network
from jboost.engine.backends.cuda.transfers import Mirror
from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.system.cache import read_cached, write_cached

from .check import Numpy, Run
from .variant import Variant, new_log, said

#: A tensor with one entry per image: (name, TensorRT's name of its dtype, whether each entry has an image's shape).
Tensor = tuple[str, str, bool]
# Inputs and outputs of a network, in order; `GRADIENT` is a gradient graph's, `FORWARD` a forward graph's.
_INPUTS = (("x", "FLOAT", True), ("y", "INT64", False))
GRADIENT = (
    *_INPUTS, ("grad", "FLOAT", True), ("class_logit", "FLOAT", False), ("loss", "FLOAT", False), ("predicted", "INT64", False),
)  # fmt: skip
FORWARD = (*_INPUTS, ("class_logit", "FLOAT", False), ("predicted", "INT64", False))


class TensorRTNetwork:
    """A `jboost.engine.backends.cuda.network.Network` that TensorRT or TensorRT-RTX runs.

    The GPU's primary CUDA context must be current: TensorRT calls the CUDA runtime, which uses the primary context.

    Args:
        plan: the serialised engine.
        variant: the TensorRT variant that built the plan.
        tensors: inputs and outputs, `GRADIENT` or `FORWARD`.
        batch_size: B.
        shape: (C, H, W).
        name: name of the plan in errors.
        cache: cache name of the kernels that TensorRT-RTX compiles for this GPU when a plan is first opened; None to
            keep no kernels.

    Raises:
        BadInputError: the plan is for another GPU, driver or version, or its inputs and outputs are not `tensors`.
        FailureError: the GPU has no memory left for the plan.
    """

    def __init__(
        self,
        plan: bytes,
        variant: Variant,
        tensors: tuple[Tensor, ...],
        *,
        batch_size: int,
        shape: tuple[int, int, int],
        name: str,
        cache: str | None = None,
    ):
        trt = variant.trt
        self.batch_size = batch_size
        self._name = name
        # TensorRT's objects use the log, the runtime and the engine until they are freed, so keep references.
        self._log = new_log(trt)
        try:
            self._runtime = trt.Runtime(self._log)
        except TypeError as e:  # the binding raises this for a null pointer
            raise BadInputError(f"{variant} does not start ({said(self._log)}); see: jboost doctor") from e
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            why = said(self._log)
            remedy = (
                "update the NVIDIA driver"
                if "driver version is insufficient" in why
                else "export the bundle again on this machine, with --format trt"
            )
            raise BadInputError(f"{variant} cannot load {name} ({why}); {remedy}")
        self._check(trt, tensors, shape)
        self._context = self._new_context(trt, cache)
        for tensor, _, is_image in tensors[: len(_INPUTS)]:
            wanted = (batch_size, *shape) if is_image else (batch_size,)
            if -1 in self._engine.get_tensor_shape(tensor) and not self._context.set_input_shape(tensor, wanted):
                raise BadInputError(
                    f"{name} cannot run a batch of {batch_size} ({said(self._log)}); export the bundle again with "
                    f"-b {batch_size}"
                )
        #: Whether a CUDA graph can record the plan: not if a call allocates memory, which TensorRT-RTX reports.
        self.capturable = True

    def _check(self, trt: Any, tensors: tuple[Tensor, ...], shape: tuple[int, int, int]) -> None:
        engine, wrong = self._engine, []
        wanted = {tensor: (dtype, is_image) for tensor, dtype, is_image in tensors}
        found = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        if set(found) != set(wanted):
            wrong.append(f"has {', '.join(sorted(found))} instead of {', '.join(sorted(wanted))}")
        for tensor in found:
            dtype, is_image = wanted.get(tensor, (None, None))
            if dtype is None:
                continue
            mode = trt.TensorIOMode.INPUT if (tensor, dtype, is_image) in _INPUTS else trt.TensorIOMode.OUTPUT
            if engine.get_tensor_mode(tensor) != mode:
                wrong.append(f"{tensor} is not an {mode.name.lower()}")
            if engine.get_tensor_dtype(tensor) != getattr(trt.DataType, dtype):
                wrong.append(f"{tensor} is {engine.get_tensor_dtype(tensor).name} instead of {dtype}")
            if engine.get_tensor_location(tensor) != trt.TensorLocation.DEVICE:
                wrong.append(f"{tensor} is not on the device")
            if engine.get_tensor_format(tensor) != trt.TensorFormat.LINEAR:
                wrong.append(f"{tensor} is not in linear format")
            batch, *rest = tuple(engine.get_tensor_shape(tensor)) or (0,)
            if batch not in (-1, self.batch_size) or tuple(rest) != (shape if is_image else ()):
                want = (self.batch_size, *shape) if is_image else (self.batch_size,)
                wrong.append(f"{tensor} has shape {(batch, *rest)} instead of {want}")
        if wrong:
            raise BadInputError(
                f"{self._name} is not a plan of this bundle's graphs: {'; '.join(wrong)}; export the bundle again"
            )

    def _new_context(self, trt: Any, cache: str | None) -> Any:
        engine = self._engine
        self._settings, self._cache, self._cached, self._cache_name = None, None, b"", cache
        if cache is not None and hasattr(trt, "IRuntimeCache"):
            self._settings = settings = engine.create_runtime_config()
            self._cache = settings.create_runtime_cache()
            self._cached = read_cached(cache)
            if self._cached and not self._cache.deserialize(self._cached):
                self._cached = b""  # another driver or GPU compiled them: compile again
            settings.set_runtime_cache(self._cache)
            # Compile kernels for this shape before the first step, not later: a CUDA graph keeps the kernels it recorded.
            settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            context = engine.create_execution_context(runtime_config=settings)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise FailureError(
                f"the GPU has no memory left for {self._name} ({said(self._log)}); export the bundle with a smaller -b"
            )
        return context

    def bind(self, **addresses: int) -> None:
        """Set each tensor's address on the device, by name.

        Raises:
            FailureError: TensorRT refuses an address (it requires an alignment of 256 bytes).
        """
        for tensor, address in addresses.items():
            if not self._context.set_tensor_address(tensor, address):
                raise FailureError(
                    f"{self._name}: tensor {tensor} cannot be placed at {address:#x} ({said(self._log)})"
                )

    def enqueue(self, stream: int) -> None:
        """Queue one call on the CUDA stream with the handle `stream`.

        Raises:
            FailureError: TensorRT cannot run the plan.
        """
        if not self._context.execute_async_v3(stream):
            raise FailureError(f"TensorRT cannot run {self._name} ({said(self._log)})")

    def settle(self, stream: int) -> None:
        """Cache the compiled kernels and set `capturable`; call it once the first call has finished."""
        if hasattr(self._context, "is_stream_capturable"):
            self.capturable = bool(self._context.is_stream_capturable(stream))
        if self._cache is not None and self._cache_name is not None:
            content = bytes(memoryview(self._cache.serialize()))
            if content != self._cached:
                write_cached(self._cache_name, content)

    def close(self) -> None:
        """Free the device's memory. Its CUDA context must still exist, and no call may be running."""
        self._context = self._settings = self._cache = self._engine = self._runtime = None


_NUMPY = {"FLOAT": np.float32, "INT64": np.int64}


@contextmanager
def network_run(
    device: Device, network: Network, tensors: tuple[Tensor, ...], shape: tuple[int, int, int]
) -> Iterator[Run]:
    """Yield a network as a function of numpy arrays that runs one call at a time, for checks.

    Args:
        device: the network's device.
        network: `TensorRTNetwork`, or another network.
        tensors: inputs and outputs, `GRADIENT` or `FORWARD`.
        shape: (C, H, W).
    """
    batch = (network.batch_size,)
    layout = Layout({name: (_NUMPY[dtype], batch + shape if is_image else batch) for name, dtype, is_image in tensors})
    stream, memory = device.stream(), Mirror(device, layout)

    def run(x: Numpy, y: Numpy) -> list[Numpy]:
        memory.views["x"][:], memory.views["y"][:] = x, y
        memory.upload(stream)
        network.bind(**memory.at)
        network.enqueue(stream.handle)
        memory.download(stream)
        stream.synchronize()
        return [memory.views[name].copy() for name, _, _ in tensors[len(_INPUTS) :]]

    try:
        yield run
    finally:
        memory.free()
