"""The eager engine: plain PyTorch autograd for the input gradient only. The yardstick for every other engine."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import numpy as np
import torch

from jboost.engine.backends.array_runner import ArrayRunner, to_float
from jboost.engine.backends.batch_of_one import at_least_two
from jboost.engine.backends.program import load_forward
from jboost.engine.backends.request import RunRequest
from jboost.engine.backends.torch_device import TORCH_DTYPES, find_device
from jboost.engine.bundle import Bundle
from jboost.engine.loop.runner import Evaluation
from jboost.engine.method.objectives import class_logit
from jboost.engine.method.plugins import checked_objective
from jboost.engine.method.step import Gradient
from jboost.engine.system.devices import device_kind
from jboost.engine.system.dtypes import check_dtype
from jboost.engine.system.memory import keep_freed_memory

# Under fp16 the loss is multiplied by this and the gradient divided by it afterwards, so that small gradients stay
# above the format's smallest subnormal, 6e-8. The steepest objective, joint, reaches d loss / d logit of about l0: 2^8
# leaves room below 65,504.
_FP16_LOSS_SCALE = 256.0


class EagerRunner(ArrayRunner):
    """Runs a bundle's forward pass, see `load_forward`, and differentiates it.

    Args:
        bundle: an opened bundle; the file that holds the forward pass is checked against the manifest's hash.
        request: what to compute. The forward pass takes every image size of the bundle and any batch size;
            ``"fp16"`` and ``"bf16"`` use autocast.

    Raises:
        BadInputError: this machine does not have the device, or the dtype is unknown.
    """

    name = "eager"
    batch_size: int | None = None

    def __init__(self, bundle: Bundle, request: RunRequest):
        check_dtype(request.dtype)
        self.device = find_device(request.device)
        if self.device == "cpu":
            keep_freed_memory()
        self.dtype = request.dtype
        self._objective = checked_objective(request.objective, bundle.config.num_classes)
        self._l0 = 0.0 if request.l0 is None else request.l0
        self._model = load_forward(bundle, self.device)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        del self._model
        if device_kind(self.device) == "cuda":
            torch.cuda.empty_cache()

    def put(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        """`array` as a tensor on the runner's device."""
        return torch.from_numpy(array).to(self.device)

    def get(self, array: torch.Tensor) -> np.ndarray[Any, Any]:
        """A tensor as numpy."""
        return array.detach().cpu().numpy()

    def gradient(self, x: torch.Tensor, y: torch.Tensor, *, in_float32: bool = False) -> Gradient:
        """Gradient of the summed objective with respect to `x` float32 [B, C, H, W], classes `y` int64 [B]."""
        scale = _FP16_LOSS_SCALE if self.dtype == "fp16" and not in_float32 else 1.0
        x = x.detach().requires_grad_()
        with self._exact_float32():
            with self._autocast(in_float32):
                logits = self._model(at_least_two(x))[: len(x)].float()
            loss = self._objective(logits, y, self._l0)
            # The sum, never the mean: an image's gradient must not depend on the batch size.
            (grad,) = torch.autograd.grad(loss.sum() * scale, x)
        logits, loss = logits.detach(), loss.detach()
        return Gradient(grad / scale if scale != 1.0 else grad, class_logit(logits, y), loss, logits.argmax(1))

    def evaluate(self, x: torch.Tensor, y: torch.Tensor) -> Evaluation:
        """Class logit and prediction for `x`."""
        logits = self._logits(x)
        return Evaluation(class_logit(logits, y), logits.argmax(1))

    def logits(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """One forward pass on images uint8 [B, H, W, C]: float32 [B, num_classes], in numpy."""
        return self.get(self._logits(to_float(self.put(images))))

    @torch.no_grad()
    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        with self._exact_float32(), self._autocast(in_float32=False):
            logits: torch.Tensor = self._model(x).float()
        return logits

    def _exact_float32(self) -> AbstractContextManager[None]:
        # float32 means float32 here: TF32 would leave the yardstick 10 bits of mantissa.
        if device_kind(self.device) == "cuda":
            return torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        return nullcontext()

    def _autocast(self, in_float32: bool) -> AbstractContextManager[Any]:
        if self.dtype == "fp32" or in_float32:
            return nullcontext()
        return torch.autocast(device_kind(self.device), dtype=TORCH_DTYPES[self.dtype])
