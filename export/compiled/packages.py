"""Compiled packages: gradient graph and forward pass, compiled by AOTInductor for this kind of machine."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from jboost.engine.backends.compiled.packages import (
    artefact_name,
    forward_name,
    load_package,
    machine_target,
    step_name,
)
from jboost.engine.bundle import Artefact, artefact_of
from jboost.engine.method.updates import MOVES
from jboost.engine.system.devices import device_kind
from jboost.export.graph import Lowered, Pooling, attach_objective, lower, optimize, optimize_for_cpu, trace_trunk
from jboost.export.graph.forward import forward_of
from jboost.export.graph.program import export_program
from jboost.export.request import ExportRequest
from jboost.export.verification.forward import verify_forward_graph
from jboost.export.verification.gradient import PROBE_SEED, Run, Tolerance, check_images, judge, measure, tolerance

from .aoti import compile_package
from .steps import step_package

FOLDER = "compile"
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

    def gradient(self, path: Path, objective: str, dtype: str, bound: Tolerance) -> dict[str, float]:
        """Compile an objective's gradient into `path`, verify it and return the figures.

        Raises:
            FailureError: the package cannot be compiled or does not match autograd.
        """
        lowered = self.lowered(dtype)
        compile_package(export_program(attach_objective(lowered.trunk, objective, self.l0)), path, self.device)
        return lowered.figures() | verify_package(
            path,
            self.model,
            objective,
            self.shape,
            l0=self.l0,
            batch_size=self.batch_size,
            bound=bound,
            device=self.device,
        )

    def forward(self, path: Path, dtype: str, bound: Tolerance) -> dict[str, float]:
        """Compile the forward pass alone into `path`, verify it and return the figures.

        Raises:
            FailureError: the package cannot be compiled or does not match the model.
        """
        # Every objective's graph has the same forward pass; `logit` needs no l0.
        program = export_program(forward_of(attach_objective(self.lowered(dtype).trunk, "logit")))
        compile_package(program, path, self.device)
        return verify_forward_graph(
            package_run(path, self.device),
            self.model,
            self.shape,
            tolerance=bound,
            fixed_batch=self.batch_size,
            name=path.name,
        )


def write_packages(
    folder: Path,
    model: nn.Module,
    request: ExportRequest,
    *,
    batch_size: int,
    in_channels: int,
    l0: float | None,
    device: str,
    say: Callable[[str], None],
) -> dict[str, tuple[Artefact, float]]:
    """Compile and verify every requested gradient, with the forward passes and steps they need.

    Args:
        folder: the bundle; packages go into its folder ``compile``.
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], in eval mode.
        request: the export request.
        batch_size: images per call; fixed, so that Inductor knows every size.
        in_channels: C.
        l0: mean realness of real images; becomes a constant of the packages whose objective needs it.
        device: torch device string to compile for.
        say: called with a line of progress before each compilation.

    Returns:
        Manifest name -> (entry, seconds it took).

    Raises:
        FailureError: a package cannot be compiled or does not match autograd.
    """
    (folder / FOLDER).mkdir()
    written: dict[str, tuple[Artefact, float]] = {}
    where = device_kind(device)

    def keep(name: str, what: str, file: str, make: Callable[[Path], dict[str, float]], **facts: Any) -> None:
        start = perf_counter()
        say(f"compiling {what}, batch {batch_size}")
        file = f"{where}.{file}"
        errors = make(folder / FOLDER / file)
        entry = artefact_of(
            folder, f"{FOLDER}/{file}", batch_size=batch_size, target=machine_target(device), errors=errors, **facts
        )
        written[name] = entry, perf_counter() - start

    for size in request.resolutions:
        shape = (in_channels, size, size)
        compiler = Compiler(model, shape, batch_size, l0, device)
        for dtype in request.dtypes:
            bound = tolerance(dtype, request.atol, request.rtol)
            facts = {"dtype": dtype, "resolution": size}
            for objective in request.objectives:
                keep(
                    artefact_name(objective, dtype, size, device),
                    f"{objective}, {dtype}, {size}x{size}",
                    f"{objective}.{size}.{dtype}.b{batch_size}.pt2",
                    partial(compiler.gradient, objective=objective, dtype=dtype, bound=bound),
                    objective=objective,
                    **facts,
                )
            keep(
                forward_name(dtype, size, device),
                f"the forward pass, {dtype}, {size}x{size}",
                f"forward.{size}.{dtype}.b{batch_size}.pt2",
                partial(compiler.forward, dtype=dtype, bound=bound),
                **facts,
            )
        for update_kind in MOVES:
            file = f"step.{update_kind}.{size}.b{batch_size}.pt2"
            make = partial(_copy_step, update_kind=update_kind, batch_size=batch_size, shape=shape, device=device)
            keep(
                step_name(update_kind, size, device),
                f"the step of {update_kind}, {size}x{size}",
                file,
                make,
                resolution=size,
            )
    return written


def _copy_step(
    path: Path, update_kind: str, batch_size: int, shape: tuple[int, int, int], device: str
) -> dict[str, float]:
    package, errors = step_package(update_kind, batch_size, shape, device)
    shutil.copyfile(package, path)
    return errors


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
) -> dict[str, float]:
    """Reload a package, compare it with autograd of `model` on batches of two sizes, and return the figures.

    Batches smaller than the package's fixed batch are padded.

    Raises:
        FailureError: an error is above the tolerance.
    """
    sizes = tuple(dict.fromkeys((min(4, batch_size), 1)))
    run = package_run(path, device)
    figures = measure(run, model, objective, shape, l0=l0, batch_sizes=sizes, fixed_batch=batch_size)
    judge(figures, bound, path.name)
    return figures.as_dict()
