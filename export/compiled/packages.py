"""Compiled packages: gradient graph and forward pass, compiled by AOTInductor for this kind of machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from jboost.engine.backends.compiled.packages import load_package
from jboost.engine.system.devices import device_kind
from jboost.export.graph import Lowered, Pooling, attach_objective, lower, optimize, optimize_for_cpu, trace_trunk
from jboost.export.graph.forward import forward_of
from jboost.export.graph.program import export_program
from jboost.export.verification.forward import verify_forward_graph
from jboost.export.verification.gradient import (
    PROBE_SEED,
    References,
    Run,
    Tolerance,
    check_images,
    judge,
    measure,
)

from .aoti import compile_package

_PROBES = 4


def package_run(path: Path, device: str) -> Run:
    """Load a compiled package on `device` as a function of numpy arrays."""
    package = load_package(path, device)

    def run(x: NDArray[np.float32], y: NDArray[np.int64]) -> Sequence[NDArray[np.generic]]:
        return [o.cpu().numpy() for o in package(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device))]

    return run


class Compiler:
    """One network at one image size and batch size: traced once, lowered per dtype, compiled per objective.

    Args:
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], in eval mode.
        shape: (C, H, W).
        batch_size: images per call; fixed, so that Inductor knows every size.
        l0: mean realness of real images; becomes a constant of the packages whose objective needs it.
        device: torch device string of the machine's CPU or one of its GPUs.
    """

    def __init__(self, model: nn.Module, shape: tuple[int, int, int], batch_size: int, l0: float | None, device: str):
        self.model, self.shape, self.batch_size, self.l0, self.device = model, shape, batch_size, l0, device
        self._references = References(model)
        self._trunk: fx.GraphModule | None = None
        self._low: dict[str, Lowered] = {}

    def lowered(self, dtype: str) -> Lowered:
        """Return the network and its input gradient in their final precision, ready to compile."""
        if self._trunk is None:
            self._trunk = self._traced(self.batch_size)
        if dtype not in self._low:
            self._low[dtype] = self._lower(self._trunk, dtype)
            if device_kind(self.device) == "cpu":
                optimize_for_cpu(self._low[dtype].trunk)
        return self._low[dtype]

    def _traced(self, batch_size: int) -> fx.GraphModule:
        # On a GPU a scatter uses atomic additions: slow in half precision, and in a different order each time.
        cuda = device_kind(self.device) == "cuda"
        pooling: Pooling = "gather" if cuda else "scatter"
        trunk = trace_trunk(self.model, torch.rand(batch_size, *self.shape), pooling=pooling)
        optimize(trunk, "inductor-gpu" if cuda else "inductor")
        return trunk

    def _lower(self, trunk: fx.GraphModule, dtype: str) -> Lowered:
        probes = check_images(_PROBES, self.shape, PROBE_SEED)
        if dtype == "fp32" or self.batch_size <= _PROBES:
            return lower(trunk, dtype, probes)
        # Choosing what stays in float32 runs the graph many times, so it uses a small batch instead of hundreds.
        small = self._traced(_PROBES)
        if [node.target for node in small.graph.nodes] != [node.target for node in trunk.graph.nodes]:
            return lower(trunk, dtype, probes)
        return lower(small, dtype, probes).applied_to(trunk, dtype)

    def gradient_program(self, objective: str, dtype: str) -> torch.export.ExportedProgram:
        """Return an objective's gradient, ready to compile.

        Raises:
            BadInputError: the model cannot be traced or has an operator without a rule.
            FailureError: torch.export refuses the graph.
        """
        return export_program(attach_objective(self.lowered(dtype).trunk, objective, self.l0))

    def forward_program(self, dtype: str) -> torch.export.ExportedProgram:
        """Return the forward pass alone, ready to compile; raises as `gradient_program` does."""
        # Every objective's graph has the same forward pass; `logit` needs no l0.
        return export_program(forward_of(attach_objective(self.lowered(dtype).trunk, "logit")))

    def verify_gradient(self, path: Path, objective: str, bound: Tolerance) -> dict[str, float]:
        """Reload a compiled gradient and compare it with autograd, see `verify_package`."""
        return verify_package(
            path,
            self.model,
            objective,
            self.shape,
            l0=self.l0,
            batch_size=self.batch_size,
            bound=bound,
            device=self.device,
            references=self._references,
        )

    def verify_forward(self, path: Path, bound: Tolerance) -> dict[str, float]:
        """Reload a compiled forward pass and compare it with the model, see `verify_forward_graph`."""
        return verify_forward_graph(
            package_run(path, self.device),
            self.model,
            self.shape,
            tolerance=bound,
            fixed_batch=self.batch_size,
            name=path.name,
            references=self._references,
        )

    def gradient(self, path: Path, objective: str, dtype: str, bound: Tolerance) -> dict[str, float]:
        """Compile an objective's gradient into `path`, verify it and return the figures.

        Raises:
            FailureError: the package cannot be compiled or does not match autograd.
        """
        compile_package(self.gradient_program(objective, dtype), path, self.device)
        return self.lowered(dtype).figures() | self.verify_gradient(path, objective, bound)

    def forward(self, path: Path, dtype: str, bound: Tolerance) -> dict[str, float]:
        """Compile the forward pass alone into `path`, verify it and return the figures.

        Raises:
            FailureError: the package cannot be compiled or does not match the model.
        """
        compile_package(self.forward_program(dtype), path, self.device)
        return self.verify_forward(path, bound)


def verify_package(
    path: Path,
    model: nn.Module,
    objective: str,
    shape: tuple[int, int, int],
    *,
    l0: float | None,
    batch_size: int,
    bound: Tolerance,
    device: str,
    references: References | None = None,
) -> dict[str, float]:
    """Reload a package, compare it with autograd of `model` on batches of two sizes, and return the figures.

    Batches smaller than the package's fixed batch are padded.

    Raises:
        FailureError: an error is above the tolerance.
    """
    sizes = tuple(dict.fromkeys((min(4, batch_size), 1)))
    run = package_run(path, device)
    figures = measure(
        run, model, objective, shape, l0=l0, batch_sizes=sizes, fixed_batch=batch_size, references=references
    )
    judge(figures, bound, path.name)
    return figures.as_dict()
