"""The compile engine: a bundle's gradient graph as a package that AOTInductor compiled for this kind of machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from .array_runner import ArrayFlight, ArrayRunner
from .bundle import Bundle
from .captured import CapturedFlight
from .eager import EagerRunner
from .errors import BadInputError, one_line
from .memory import keep_freed_memory
from .runner import Evaluation, Gradient
from .serving import export_command, why_no_graph
from .step import CHANGED, State
from .torch_device import find_device, set_tf32
from .updates import Controls


def artefact_name(objective: str, dtype: str, resolution: int, device: str) -> str:
    """The name of a compiled package in a bundle's manifest; `device` is a torch device string."""
    return f"compile/{_kind(device)}/{objective}/{dtype}/{resolution}"


def forward_name(dtype: str, resolution: int, device: str) -> str:
    """The name of a compiled forward pass in a bundle's manifest."""
    return f"compile/{_kind(device)}/forward/{dtype}/{resolution}"


def step_name(kind: str, resolution: int, device: str) -> str:
    """The name of a compiled step in a bundle's manifest; `kind` is that of the update."""
    return f"compile/{_kind(device)}/step/{kind}/{resolution}"


def _kind(device: str) -> str:
    return device.split(":")[0]


def machine_target(device: str) -> str:
    """What a package is tied to: kind of device, instruction set or compute capability, torch version.

    Inductor compiles for the machine it runs on, and calls into torch's libraries by their symbols.
    """
    if _kind(device) == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda {major}.{minor}, {torch.cuda.get_device_name(device)}, torch {torch.__version__}"


def runs_here(target: str, device: str) -> bool:
    """Whether a package compiled for `target` runs on this machine's `device`, which need not be there."""
    return (_kind(device) == "cpu" or torch.cuda.is_available()) and target == machine_target(device)


@dataclass(frozen=True)
class Packages:
    """Where the compiled packages of a run are.

    Attributes:
        gradient: (x, y) -> (grad, class_logit, loss, predicted).
        forward: (x, y) -> (class_logit, predicted).
        step: the package for a kind of update, see `jboost.engine.step.advance`.
        batch_size: images that each of them takes.
    """

    gradient: Path
    forward: Path
    step: Callable[[str], Path]
    batch_size: int


def packages_of(bundle: Bundle, *, objective: str, dtype: str, resolution: int, device: str) -> Packages:
    """A bundle's own packages for a kind of device, checked against the manifest's hashes.

    Raises:
        BadInputError: one is missing or changed.
    """
    name = artefact_name(objective, dtype, resolution, device)
    return Packages(
        bundle.checked_path(name),
        bundle.checked_path(forward_name(dtype, resolution, device)),
        lambda kind: bundle.checked_path(step_name(kind, resolution, device)),
        bundle.artefact(name).batch_size or 1,
    )


def why_unusable(
    bundle: Bundle,
    *,
    objective: str,
    l0: float | None,
    resolution: int,
    device: str,
    dtype: str,
    batch_size: int | None = None,
) -> str | None:
    """Why the bundle's package, if any, cannot serve this run; None if it can.

    Raises:
        BadInputError: no such device on this machine.
    """
    device = find_device(device)
    name = artefact_name(objective, dtype, resolution, device)
    why = why_no_graph(bundle, name, "compile", objective=objective, l0=l0, resolution=resolution, dtype=dtype)
    if why is not None:
        return why
    rebuild = f"export it with: {export_command('compile', objective=objective, dtype=dtype, resolution=resolution)}"
    artefact, here = bundle.config.artefacts[name], machine_target(device)
    if artefact.target != here:
        return f"the package was compiled for {artefact.target}, this machine is {here}; {rebuild}"
    if batch_size not in (None, artefact.batch_size):
        return f"the package takes batches of {artefact.batch_size}, not {batch_size}; leave -b out, or {rebuild} -b {batch_size}"
    return None


class CompiledRunner(ArrayRunner):
    """Runs compiled packages: two units a step, gradient and update, with no word to the host between them.

    Args:
        bundle: an opened bundle; its packages are checked against the manifest's hashes.
        objective: name of the objective.
        l0: mean realness of real images; for objectives that need it, it must be what was compiled in.
        resolution: image size in pixels.
        device: ``"auto"`` (CUDA where there is one), ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        dtype: of the network inside the package. float32 is float32: TF32 is off.
        packages: to run instead of the bundle's own.

    Raises:
        BadInputError: the bundle has no such package, or it was compiled for another machine.
    """

    name = "compile"

    def __init__(
        self,
        bundle: Bundle,
        *,
        objective: str,
        l0: float | None,
        resolution: int,
        device: str = "auto",
        dtype: str = "fp32",
        packages: Packages | None = None,
    ):
        self.device = find_device(device)
        self._cuda = _kind(self.device) == "cuda"
        if packages is None:
            why = why_unusable(bundle, objective=objective, l0=l0, resolution=resolution, device=device, dtype=dtype)
            if why is not None:
                raise BadInputError(f"engine 'compile' cannot run this: {why}")
            packages = packages_of(bundle, objective=objective, dtype=dtype, resolution=resolution, device=self.device)
        if not self._cuda:
            keep_freed_memory()
        self.dtype, self.batch_size = dtype, packages.batch_size
        self._packages = packages
        self._gradient = load_package(packages.gradient, self.device)
        self._forward = load_package(packages.forward, self.device)
        self._steps: dict[str, Any] = {}
        self._flags = {flag: torch.tensor(flag, device=self.device) for flag in (False, True)}
        self._bundle, self._objective, self._l0 = bundle, objective, l0
        self._precise: EagerRunner | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        del self._gradient, self._forward
        self._steps.clear()
        self._precise = None

    def put(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        """`array` as a tensor on the runner's device."""
        return torch.from_numpy(array).to(self.device)

    def get(self, array: torch.Tensor) -> np.ndarray[Any, Any]:
        """A tensor as numpy."""
        return array.cpu().numpy()

    def flight(self, kind: str, controls: Controls, count: int, shape: tuple[int, int, int]) -> ArrayFlight:
        """Rows for images in flight; on CUDA their step is one graph."""
        rows = CapturedFlight if self._cuda else ArrayFlight
        return rows(self, kind, controls, count, shape)

    def gradient(self, x: torch.Tensor, y: torch.Tensor, *, precise: bool = False) -> Gradient:
        """The objective's gradient for `x` float32 [B, C, H, W], classes `y` int64 [B], B being the package's batch size."""
        if precise and self.dtype != "fp32":
            self._precise = self._precise or EagerRunner(
                self._bundle, objective=self._objective, l0=self._l0, device=self.device
            )
            return self._precise.gradient(x, y)
        return Gradient(*self._gradient(x.contiguous(), y))

    def step(self, kind: str, state: State, controls: Controls, *, precise: bool = False) -> State:
        """Gradient and update: one step of every slot, see `jboost.engine.step.advance`."""
        if kind not in self._steps:
            self._steps[kind] = load_package(self._packages.step(kind), self.device)
        gradient = self.gradient(state.x, state.y, precise=precise)
        # A package reads memory as it was compiled for, without looking at strides.
        gradient = gradient._replace(grad=gradient.grad.contiguous())
        changed = self._steps[kind](*state, *gradient, *controls, self._flags[precise])
        return state._replace(**dict(zip(CHANGED, changed, strict=True)))

    def evaluate(self, x: torch.Tensor, y: torch.Tensor) -> Evaluation:
        """Class logit and prediction for `x`: a forward pass."""
        return Evaluation(*self._forward(x.contiguous(), y))


def load_package(path: Path, device: str) -> Callable[..., list[torch.Tensor]]:
    """A compiled package as a function of tensors on `device`, in the order in which they were exported.

    Raises:
        BadInputError: torch cannot load it.
    """
    try:
        # What torch._inductor.aoti_load_package wraps. That module brings the whole compiler in, which takes two seconds and is of
        # no use to what is compiled already.
        # On CUDA without its own synchronisation between threads, which a graph's capture does not allow.
        where = torch.device(device)
        cuda = where.type == "cuda"
        index = (torch.cuda.current_device() if where.index is None else where.index) if cuda else -1
        if cuda:
            set_tf32(False)  # float32 means float32
        loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", cuda, 1, index)
    except Exception as e:  # the loader raises RuntimeError and whatever dlopen says
        reason = one_line(e)
        raise BadInputError(f"torch {torch.__version__} cannot load {path} ({reason}); export the bundle again") from e

    def run(*tensors: torch.Tensor) -> list[torch.Tensor]:
        return loader.run(list(tensors))

    return run
