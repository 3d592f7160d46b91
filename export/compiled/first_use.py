"""Compile packages that a bundle does not hold, when the compile engine first needs them; later runs use the cache."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from jboost.engine.backends.compiled.packages import Packages, machine_target
from jboost.engine.backends.program import load_forward
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.method.objectives import NEEDS_L0, OBJECTIVES
from jboost.engine.method.sources import SEPARATOR
from jboost.export.verification.gradient import tolerance

from .aoti import check_compiler
from .cache import cached
from .packages import Compiler
from .steps import step_package


class Program(nn.Module):
    """A forward program as a module that accepts ``eval()``; torch.export's own modules refuse it (torch 2.13)."""

    def __init__(self, program: nn.Module):
        super().__init__()
        self.program = program

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.program(x)
        return logits

    def train(self, mode: bool = True) -> Self:
        """Do nothing: the program was traced in evaluation mode."""
        return self


def model_of(bundle: Bundle) -> nn.Module:
    """Load a bundle's forward pass, see `load_forward`, float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], as a CPU module.

    Raises:
        BadInputError: the file is missing, changed or unreadable.
    """
    # Copying an exported module makes torch 2.13 warn about a deprecated class of its own.
    warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
    return Program(load_forward(bundle, "cpu"))


def _network_of(bundle: Bundle) -> dict[str, Any]:
    """What determines the network, for the cache's key.

    The network of a bundle that is not trusted is built from its weights. Nothing reads its forward program, for which its
    author could claim any hash; so the key comes from the weights, which are checked here.
    """
    if bundle.trusted:
        return {"forward": bundle.artefact("forward").sha256}
    bundle.checked_path("weights")
    config = bundle.config
    return {
        "weights": bundle.artefact("weights").sha256, "architecture": config.architecture, "mean": config.mean, "std": config.std,
        "classes": config.num_classes,
    }  # fmt: skip


def _values_of(objective: str) -> dict[str, Any]:
    """For the key: the values of an objective from outside jboost. Its name tells its file's version, but not what that imports."""
    if SEPARATOR not in objective:
        return {}
    logits = torch.randn((8, 10), generator=torch.Generator().manual_seed(5))
    try:
        return {"values": OBJECTIVES[objective](logits, torch.arange(8), 1.0).tolist()}
    except Exception:  # it takes another number of classes
        return {}


def compile_on_first_use(bundle: Bundle, request: RunRequest, *, say: Callable[[str], object]) -> Packages:
    """Return the packages for a request, from this machine's cache or compiled and verified now.

    Args:
        bundle: the bundle whose forward pass is differentiated.
        request: the computation. Its device is a torch device string, its batch size the number of images per call.
        say: called with a line of progress before each compilation.

    Raises:
        BadInputError: there is no C++ compiler, or, for a GPU, there are no CUDA headers.
        FailureError: a package cannot be compiled or does not match autograd.
        ValueError: the request names no batch size.
    """
    objective, l0, dtype, device, batch_size = (
        request.objective, request.l0, request.dtype, request.device, request.batch_size,
    )  # fmt: skip
    if batch_size is None:
        raise ValueError("packages are compiled for a batch size: the request must name it")
    shape = (bundle.config.in_channels, request.resolution, request.resolution)

    @cache
    def compiler() -> Compiler:  # made only if the cache lacks a package
        check_compiler(device)
        return Compiler(model_of(bundle), shape, batch_size, l0, device)

    def note(what: str) -> Callable[[], object]:
        return lambda: say(f"compiling {what} for this machine, -b {batch_size}; later runs use the cache")

    bound = tolerance(dtype, None, None)
    key = {
        **_network_of(bundle), "dtype": dtype, "shape": shape, "batch": batch_size,
        "target": machine_target(device),
    }  # fmt: skip
    gradient, _ = cached(
        key | {"objective": objective, "l0": l0 if objective in NEEDS_L0 else None} | _values_of(objective),
        lambda path: compiler().gradient(path, objective, dtype, bound),
        say=note(f"the gradient of {objective}, {dtype}"),
    )
    forward, _ = cached(
        key | {"objective": None},
        lambda path: compiler().forward(path, dtype, bound),
        say=note(f"the forward pass, {dtype}"),
    )

    def step(update_kind: str) -> Path:
        return step_package(update_kind, batch_size, shape, device, say=note(f"the step of {update_kind}"))[0]

    return Packages(gradient, forward, step, batch_size)
