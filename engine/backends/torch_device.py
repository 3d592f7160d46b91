"""torch's devices and dtypes by name, and the TF32 switch."""

from __future__ import annotations

import torch

from jboost.engine.errors import BadInputError
from jboost.engine.system.devices import DeviceName

#: torch's dtype for each name in `jboost.engine.system.dtypes.DTYPES`.
TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def find_device(name: str) -> str:
    """The torch device called `name`; ``"auto"`` is CUDA if there is a CUDA device, else the CPU.

    Raises:
        BadInputError: this machine does not have the device.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = DeviceName.parse(name)
    if device.kind == "cuda":
        if not torch.cuda.is_available():
            build = "is a CPU-only build" if torch.version.cuda is None else "finds no usable CUDA device"
            raise BadInputError(f"device {name!r} cannot be used: torch {torch.__version__} {build}; use --device cpu")
        if device.index >= torch.cuda.device_count():
            raise BadInputError(
                f"device {name!r} does not exist: this machine has {torch.cuda.device_count()} CUDA device(s)"
            )
    return name


def set_tf32(allowed: bool) -> None:
    """Set whether CUDA may compute float32 products and convolutions in TF32, which has 10 bits of mantissa."""
    torch.backends.cudnn.allow_tf32 = allowed  # torch's default allows it here, but not for products
    torch.backends.cuda.matmul.allow_tf32 = allowed
