"""NVIDIA's driver and its GPUs, queried through the driver's libraries: needs no package, creates no CUDA context."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Any

# Values of CUdevice_attribute in cuda.h.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Gpu:
    """A GPU: `name` as the driver gives it, `capability` such as ``"8.6"``, `memory` in bytes."""

    name: str
    capability: str
    memory: int

    @property
    def sm(self) -> str:
        """The compute capability as NVIDIA's compilers write it, such as ``"sm_86"``."""
        return sm_of(self.capability)

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability})"


@dataclass(frozen=True)
class Driver:
    """The driver and its GPUs.

    Attributes:
        version: the driver's version, e.g. ``"580.65.06"``; None if it cannot be queried.
        cuda: the newest CUDA version that the driver supports, e.g. ``"13.0"``; None if it cannot be queried.
        gpus: the GPUs, in CUDA's order.
        problem: why there are no GPUs; None if there are any.
    """

    version: str | None
    cuda: str | None
    gpus: tuple[Gpu, ...]
    problem: str | None


def sm_of(capability: str) -> str:
    """``"sm_86"`` for ``"8.6"``."""
    return f"sm_{capability.replace('.', '')}"


@cache
def find_driver() -> Driver:
    """The driver of this machine, queried once per process."""
    version = _driver_version()
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return Driver(version, None, (), "no NVIDIA driver was found (libcuda.so.1 is missing)")
    number = ctypes.c_int()
    asked = cuda.cuDriverGetVersion(ctypes.byref(number))
    newest = None if asked else f"{number.value // 1000}.{number.value % 1000 // 10}"
    failed = cuda.cuInit(0)
    if failed:
        return Driver(version, newest, (), f"the NVIDIA driver cannot be initialised: {_said(cuda, failed)}")
    count = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    gpus = tuple(_gpu(cuda, index) for index in range(count.value))
    return Driver(
        version, newest, gpus, None if gpus else "the NVIDIA driver finds no GPU (is CUDA_VISIBLE_DEVICES set?)"
    )


def _said(cuda: Any, code: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(code, ctypes.byref(text))
    return f"{text.value.decode()} (error {code})" if text.value else f"error {code}"


def _gpu(cuda: Any, index: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    major, minor = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return Gpu(name.value.decode(), f"{major.value}.{minor.value}", memory.value)


def _driver_version() -> str | None:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    if nvml.nvmlInit_v2() != 0:
        return None
    text = ctypes.create_string_buffer(80)
    failed = nvml.nvmlSystemGetDriverVersion(text, len(text))
    nvml.nvmlShutdown()
    return None if failed else text.value.decode()
