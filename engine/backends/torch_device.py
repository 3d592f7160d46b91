"""torch's devices and dtypes by name, and the TF32 switch."""

from __future__ import annotations

import os

import torch

from jboost.engine.errors import BadInputError
from jboost.engine.system.devices import DeviceName
from jboost.engine.system.environment import CUDA, TORCH, check_environment

#: torch's dtype for each name in `jboost.engine.system.dtypes.DTYPES`.
TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def find_device(name: str) -> str:
    """The torch device called `name`; ``"auto"`` is CUDA if there is a CUDA device, else the CPU.

    Raises:
        BadInputError: this machine does not have the device, or the environment makes it compute differently.
    """
    found = _find_device(name)
    check_environment(TORCH, *((CUDA,) if found != "cpu" else ()))
    _make_products_independent()
    return found


def _make_products_independent() -> None:
    """Let MKL, which computes torch's products on x86 CPUs, add numbers in the same order wherever a row lies in memory.

    Otherwise a row of a product whose inner size is no multiple of 4 depends on its position in the batch. Measured at torch 2.13:
    no product of 0.1 ms or more takes longer. MKL reads the variable at the process's first product; a value of the user's stays.
    """
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")


def _find_device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = DeviceName.parse(name)
    if device.kind == "cuda":
        if not torch.cuda.is_available():
            build = "is a CPU-only build" if torch.version.cuda is None else "finds no usable CUDA device"
            if torch.version.cuda is not None and (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
                build += f" (CUDA_VISIBLE_DEVICES={visible})"
            raise BadInputError(f"device {name!r} cannot be used: torch {torch.__version__} {build}; use --device cpu")
        if device.index >= torch.cuda.device_count():
            count, visible = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
            shown = "this machine has" if visible is None else f"CUDA_VISIBLE_DEVICES={visible} leaves"
            raise BadInputError(
                f"device {name!r} does not exist: {shown} {count} CUDA device(s); use --device cuda:0"
                + (f" to cuda:{count - 1}" if count > 1 else "")
            )
    return name


def set_tf32(allowed: bool) -> None:
    """Set whether CUDA may compute float32 products and convolutions in TF32, which has 10 bits of mantissa."""
    torch.backends.cudnn.allow_tf32 = allowed  # torch's default allows it here, but not for products
    torch.backends.cuda.matmul.allow_tf32 = allowed
