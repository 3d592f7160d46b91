"""Baselines of plain PyTorch: autograd of the forward pass, eagerly or under ``torch.compile``.

They are separate from the eager engine, so that the yardstick does not move when the engine changes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import numpy as np
import torch

from jboost.engine.backends.program import load_forward
from jboost.engine.backends.torch_device import TORCH_DTYPES, set_tf32
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.method.objectives import OBJECTIVES
from jboost.engine.system.devices import device_kind
from jboost.engine.system.environment import COMPILER, DYNAMO, check_environment

_FP16_LOSS_SCALE = 256.0


class Autograd:
    """The bundle's forward pass under autograd; each call computes one gradient of the summed objective.

    Args:
        bundle: an opened bundle; the file that holds the forward pass is checked against the manifest's hash.
        objective: name of the objective.
        l0: mean realness of real images, for objectives that need it.
        device: torch device string.
        dtype: "fp32", or "fp16" or "bf16" for autocast; under fp16 the loss is scaled.
        compiled: compile the forward pass and the gradient with ``torch.compile``: default mode on a CPU,
            ``max-autotune`` on CUDA. Weights stay arguments (no freezing), as in any plain use of ``torch.compile``.
        tf32: allow TF32 in float32 products and convolutions on CUDA.
        channels_last: keep images and weights in channels-last order.

    Raises:
        BadInputError: the bundle is damaged.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        objective: str,
        l0: float | None,
        device: str,
        dtype: str = "fp32",
        compiled: bool = False,
        tf32: bool = False,
        channels_last: bool = False,
    ):
        self._device, self._dtype, self._tf32 = device, dtype, tf32
        self._scale = _FP16_LOSS_SCALE if dtype == "fp16" else 1.0
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._objective, self._l0 = OBJECTIVES[objective], 0.0 if l0 is None else l0
        self._model = load_forward(bundle, device)
        self._model.to(memory_format=self._format)  # type: ignore[call-overload]
        self._loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = self.loss
        if compiled:
            # array-api-compat looks up a tensor's namespace through lru_cache; Dynamo bypasses the cache and warns.
            warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`", UserWarning)
            # Shapes never change here, so a graph for any batch size would bring nothing.
            mode = "max-autotune" if device_kind(device) == "cuda" else None
            self._loss = torch.compile(self.loss, dynamic=False, mode=mode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        del self._model, self._loss

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the summed objective, a scalar, scaled under fp16; `x` float32 [B, C, H, W], classes `y` int64 [B]."""
        with self._autocast():
            logits = self._model(x)
        total: torch.Tensor = self._objective(logits.float(), y, self._l0).sum() * self._scale
        return total

    def put(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        """Copy `array` to the device as a tensor."""
        return torch.from_numpy(array).to(self._device)

    def get(self, array: torch.Tensor) -> np.ndarray[Any, Any]:
        """Copy a tensor to numpy."""
        return array.cpu().numpy()

    def gradient(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Compute the gradient of the summed objective with respect to `x`: float32 [B, C, H, W]."""
        set_tf32(self._tf32)
        try:
            x = x.detach().to(memory_format=self._format).requires_grad_()
            return torch.autograd.grad(self._loss(x, y), x)[0] / self._scale
        finally:
            set_tf32(False)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._dtype == "fp32":
            return nullcontext()
        return torch.autocast(device_kind(self._device), dtype=TORCH_DTYPES[self._dtype])


def why_no_torch_compile(device: str) -> str | None:
    """Return why ``torch.compile`` cannot compile for `device` here; None if it can."""
    try:
        check_environment(DYNAMO, COMPILER)
    except BadInputError as e:
        return str(e)
    if device_kind(device) == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "it needs Triton, which does not run here; install it: pip install triton"
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as e:  # an error class of torch without a public name
        return f"it needs a C++ compiler, and torch finds none ({type(e).__name__}); install one: apt-get install g++"
    return None
