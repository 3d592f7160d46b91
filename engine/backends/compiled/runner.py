"""The compile engine's runner: runs packages that AOTInductor compiled for this kind of machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch

from jboost.engine.backends.array_runner import ArrayFlight, ArrayRunner
from jboost.engine.backends.eager.runner import EagerRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.backends.torch_device import find_device
from jboost.engine.bundle import Bundle
from jboost.engine.loop.runner import Evaluation
from jboost.engine.method.rounding import NEAREST
from jboost.engine.method.step import CHANGED, READ, Gradient, State
from jboost.engine.method.updates import Controls
from jboost.engine.system.devices import device_kind
from jboost.engine.system.memory import keep_freed_memory

from .captured import CapturedFlight
from .packages import Packages, load_package, packages_of


class CompiledRunner(ArrayRunner):
    """Runs compiled packages: two per step, gradient and update. Neither synchronises with the host.

    Args:
        bundle: an opened bundle; its packages are checked against the manifest's hashes.
        request: what to compute; the bundle has packages for it. float32 means float32: TF32 is off.
        packages: run these instead of the bundle's own.

    Raises:
        BadInputError: the bundle lacks a package, or a package's file is changed or unreadable.
    """

    name = "compile"
    batch_size: int | None

    def __init__(self, bundle: Bundle, request: RunRequest, packages: Packages | None = None):
        self.device = find_device(request.device)
        self._cuda = device_kind(self.device) == "cuda"
        if packages is None:
            packages = packages_of(bundle, request, self.device)
        if not self._cuda:
            keep_freed_memory()
        self.dtype, self.batch_size = request.dtype, packages.batch_size
        self._packages = packages
        self._gradient = load_package(packages.gradient, self.device)
        self._forward = load_package(packages.forward, self.device)
        self._steps: dict[str, Any] = {}
        self._flags = {flag: torch.tensor(flag, device=self.device) for flag in (False, True)}
        self._bundle, self._request = bundle, request
        self._float32: EagerRunner | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        del self._gradient, self._forward
        self._steps.clear()
        self._float32 = None

    def put(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        """`array` as a tensor on the runner's device."""
        return torch.from_numpy(array).to(self.device)

    def get(self, array: torch.Tensor) -> np.ndarray[Any, Any]:
        """A tensor as numpy."""
        return array.cpu().numpy()

    def flight(
        self,
        update_kind: str,
        controls: Controls,
        count: int,
        shape: tuple[int, int, int],
        rounding: str = NEAREST,
    ) -> ArrayFlight:
        """Rows for images in flight; on CUDA a step is one captured graph."""
        rows = CapturedFlight if self._cuda else ArrayFlight
        return rows(self, update_kind, controls, count, shape, rounding)

    def gradient(self, x: torch.Tensor, y: torch.Tensor, *, in_float32: bool = False) -> Gradient:
        """The objective's gradient for `x` float32 [B, C, H, W], classes `y` int64 [B]; B is the package's size."""
        if in_float32 and self.dtype != "fp32":
            request = replace(self._request, device=self.device, dtype="fp32")
            self._float32 = self._float32 or EagerRunner(self._bundle, request)
            return self._float32.gradient(x, y)
        return Gradient(*self._gradient(x.contiguous(), y))

    def check_update(self, update_kind: str) -> None:
        """Load the compiled step of an update kind.

        Raises:
            BadInputError: the bundle has no compiled step for it, and this runner does not compile.
        """
        if update_kind not in self._steps:
            self._steps[update_kind] = load_package(self._packages.step(update_kind), self.device)

    def step(self, update_kind: str, state: State, controls: Controls, *, in_float32: bool = False) -> State:
        """Gradient and update: one step of every slot; see `jboost.engine.method.step.advance`."""
        self.check_update(update_kind)
        gradient = self.gradient(state.x, state.y, in_float32=in_float32)
        # A package assumes the strides that it was compiled for and does not check them.
        gradient = gradient._replace(grad=gradient.grad.contiguous())
        read = (getattr(state, name) for name in READ)
        changed = self._steps[update_kind](*read, *gradient, *controls, self._flags[in_float32])
        return state._replace(**dict(zip(CHANGED, changed, strict=True)))

    def evaluate(self, x: torch.Tensor, y: torch.Tensor) -> Evaluation:
        """One forward pass: class logit and prediction for `x`."""
        return Evaluation(*self._forward(x.contiguous(), y))
