"""What a user of plain PyTorch has: autograd of the forward pass, eagerly or under ``torch.compile``.

Kept apart from the eager engine, so that the yardstick does not move when an engine does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import numpy as np
import torch

from jboost.engine.bundle import Bundle
from jboost.engine.objectives import OBJECTIVES
from jboost.engine.program import load_program

from .machine import exact_float32


class Autograd:
    """The bundle's forward pass, differentiated by autograd: one gradient of the summed objective a call.

    Args:
        bundle: an opened bundle; the forward program is checked against the manifest's hash.
        objective: name of the objective.
        l0: mean realness of real images, for objectives that need it.
        device: torch device string.
        dtype: "fp32", or "bf16" for autocast. (fp16 would need a loss scale.)
        compiled: have ``torch.compile`` compile the forward and the gradient, with its defaults; weights stay arguments (no
            freezing), as for anyone who writes ``torch.compile``.

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
    ):
        exact_float32()
        self._device, self._dtype = device, dtype
        self._objective, self._l0 = OBJECTIVES[objective], 0.0 if l0 is None else l0
        self._model = load_program(bundle.checked_path("forward"), device)
        self._loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = self.loss
        if compiled:
            # The array-API namespace of a tensor is looked up through a cache, which tracing sees through, and says so.
            warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`", UserWarning)
            # Shapes stay as they are, so nothing is gained from a graph for any batch size.
            self._loss = torch.compile(self.loss, dynamic=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        del self._model, self._loss

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The summed objective of `x` float32 [B, C, H, W], classes `y` int64 [B]: a scalar."""
        with self._autocast():
            logits = self._model(x)
        total: torch.Tensor = self._objective(logits.float(), y, self._l0).sum()
        return total

    def put(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        """`array` as a tensor on the device."""
        return torch.from_numpy(array).to(self._device)

    def get(self, array: torch.Tensor) -> np.ndarray[Any, Any]:
        """A tensor as numpy."""
        return array.cpu().numpy()

    def gradient(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Gradient of the summed objective with respect to `x`: float32 [B, C, H, W]."""
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self._loss(x, y), x)[0]

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._dtype == "fp32":
            return nullcontext()
        return torch.autocast(torch.device(self._device).type, dtype=torch.bfloat16)


def why_no_torch_compile(device: str) -> str | None:
    """Why ``torch.compile`` cannot compile for `device` here; None if it can."""
    if device.startswith("cuda"):
        from torch.utils._triton import has_triton

        return None if has_triton() else "it needs Triton, which does not run here; install it: pip install triton"
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as e:  # torch's own kind of error, which has no public name
        return f"it needs a C++ compiler, and torch finds none ({type(e).__name__}); install one: apt-get install g++"
    return None
