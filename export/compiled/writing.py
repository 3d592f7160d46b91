"""Write a bundle's compiled packages: compiled side by side by workers, while this process traces, verifies and does other work."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import nn

from jboost.engine.backends.compiled.packages import artefact_name, forward_name, machine_target, step_name
from jboost.engine.bundle import Artefact, artefact_of
from jboost.engine.method.updates import MOVES
from jboost.engine.system.devices import device_kind
from jboost.export.request import ExportRequest
from jboost.export.stages import Stages
from jboost.export.verification.gradient import tolerance

from .packages import Compiler
from .workers import Done, Workers

FOLDER = "compile"

_Start = Callable[[Path], Future[Done]]
_Finish = Callable[[Path, Done], dict[str, float]]


@dataclass
class _Package:
    """A package to write: `start` traces it and has it compiled, `finish` verifies it and returns the figures."""

    name: str
    what: str
    file: str
    start: _Start
    finish: _Finish
    facts: dict[str, Any] = field(default_factory=dict)
    compiled: Future[Done] | None = None
    seconds: float = 0.0


class PackageWriter:
    """Every requested gradient of a network as a compiled package, with the forward passes and steps they need.

    Args:
        folder: the bundle; packages go into its folder ``compile``.
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], in eval mode.
        request: the export request.
        batch_size: images per call; fixed, so that Inductor knows every size.
        in_channels: C.
        l0: mean realness of real images; becomes a constant of the packages whose objective needs it.
        device: torch device string to compile for.
        workers: where to compile.
        stages: told of each compilation, verification and finished package.
    """

    def __init__(
        self,
        folder: Path,
        model: nn.Module,
        request: ExportRequest,
        *,
        batch_size: int,
        in_channels: int,
        l0: float | None,
        device: str,
        workers: Workers,
        stages: Stages,
    ):
        self._folder, self._model, self._l0, self._stages = folder, model, l0, stages
        self._batch_size, self._device, self._workers = batch_size, device, workers
        self._packages: list[_Package] = []
        self._steps: list[_Package] = []
        for size in request.resolutions:
            self._add((in_channels, size, size), request)

    def begin(self) -> None:
        """Give the workers what they can take; without workers do nothing.

        Raises:
            BadInputError: the model cannot be traced, or has an operator without a rule.
        """
        (self._folder / FOLDER).mkdir()
        if self._workers.count:
            for step in self._steps:
                self._start(step)
            self._fill()

    def finish(self) -> dict[str, tuple[Artefact, float]]:
        """Verify every package once it is compiled.

        Returns:
            Manifest name -> (entry, seconds it took).

        Raises:
            FailureError: a package cannot be compiled or does not match autograd.
        """
        written = {}
        for package in self._packages:
            if package.compiled is None:
                self._start(package)
            assert package.compiled is not None
            if self._workers.count:
                self._stages.say(f"waiting for {package.what}")
            done = package.compiled.result()
            self._fill()
            if self._workers.count and package not in self._steps:
                self._stages.say(f"verifying {package.what}")
            start = perf_counter()
            errors = package.finish(self._folder / FOLDER / package.file, done)
            entry = artefact_of(
                self._folder,
                f"{FOLDER}/{package.file}",
                batch_size=self._batch_size,
                target=machine_target(self._device),
                errors=errors,
                **package.facts,
            )
            seconds = package.seconds + done.seconds + perf_counter() - start
            written[package.name] = entry, seconds
            self._stages.end()
        return written

    def _fill(self) -> None:
        """Keep the workers busy, with one program waiting: programs are as large as the network."""
        programs = [package for package in self._packages if package not in self._steps]
        for package in programs if self._workers.count else ():
            under_way = sum(p.compiled is not None and not p.compiled.done() for p in programs)
            if package.compiled is None and under_way <= self._workers.count:
                self._start(package)
        if all(package.compiled is not None for package in self._packages):
            self._workers.no_more()

    def _start(self, package: _Package) -> None:
        self._stages.say(f"compiling {package.what}, batch {self._batch_size}")
        start = perf_counter()
        package.compiled = package.start(self._folder / FOLDER / package.file)
        if self._workers.count:  # without, compiling is part of it
            package.seconds = perf_counter() - start

    def _add(self, shape: tuple[int, int, int], request: ExportRequest) -> None:
        size, batch, device = shape[1], self._batch_size, self._device
        where = device_kind(device)
        compiler = Compiler(self._model, shape, batch, self._l0, device)
        for dtype in request.dtypes:
            facts = {"dtype": dtype, "resolution": size}
            bound = tolerance(dtype, request.atol, request.rtol)

            def gradient(path: Path, objective: str, dtype: str = dtype) -> Future[Done]:
                return self._workers.compile(compiler.gradient_program(objective, dtype), path, device)

            def verified(path: Path, done: Done, objective: str, dtype: str = dtype, bound: Any = bound) -> Any:
                return compiler.lowered(dtype).figures() | compiler.verify_gradient(path, objective, bound)

            def forward(path: Path, dtype: str = dtype) -> Future[Done]:
                return self._workers.compile(compiler.forward_program(dtype), path, device)

            for objective in request.objectives:
                package = _Package(
                    artefact_name(objective, dtype, size, device),
                    f"{objective}, {dtype}, {size}x{size}",
                    f"{where}.{objective}.{size}.{dtype}.b{batch}.pt2",
                    partial(gradient, objective=objective),
                    partial(verified, objective=objective),
                    {"objective": objective, **facts},
                )
                self._packages.append(package)
            package = _Package(
                forward_name(dtype, size, device),
                f"the forward pass, {dtype}, {size}x{size}",
                f"{where}.forward.{size}.{dtype}.b{batch}.pt2",
                forward,
                lambda path, done, bound=bound: compiler.verify_forward(path, bound),  # type: ignore[misc]
                facts,
            )
            self._packages.append(package)
        for kind in MOVES:
            step = _Package(
                step_name(kind, size, device),
                f"the step of {kind}, {size}x{size}",
                f"{where}.step.{kind}.{size}.b{batch}.pt2",
                lambda path, kind=kind: self._workers.step(kind, batch, shape, device),  # type: ignore[misc]
                _copied,
                {"resolution": size},
            )
            self._packages.append(step)
            self._steps.append(step)


def _copied(path: Path, done: Done) -> dict[str, float]:
    """Copy a step, which was verified where it was compiled, from the cache."""
    shutil.copyfile(done.result["package"], path)
    errors: dict[str, float] = done.result["errors"]
    return errors
