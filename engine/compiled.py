"""The compile engine: a bundle's gradient graph as a package that AOTInductor compiled for this kind of machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from .bundle import Bundle
from .eager import EagerRunner
from .errors import BadInputError
from .runner import Evaluation, Gradient
from .serving import export_command, why_no_graph


def artefact_name(objective: str, dtype: str, resolution: int) -> str:
    """The name of a compiled package in a bundle's manifest."""
    return f"compile/{objective}/{dtype}/{resolution}"


def machine_target() -> str:
    """What a package is tied to: kind of device, instruction set, torch version.

    Inductor compiles for the machine it runs on, and calls into torch's libraries by their symbols.
    """
    return f"cpu {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


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
    """Why the bundle's package, if any, cannot serve this run; None if it can."""
    name = artefact_name(objective, dtype, resolution)
    why = why_no_graph(
        bundle, name, "compile", objective=objective, l0=l0, resolution=resolution, device=device, dtype=dtype
    )
    if why is not None:
        return why
    rebuild = f"export it with: {export_command('compile', objective=objective, dtype=dtype, resolution=resolution)}"
    artefact = bundle.config.artefacts[name]
    if artefact.target != machine_target():
        return f"the package was compiled for {artefact.target}, this machine is {machine_target()}; {rebuild}"
    if batch_size not in (None, artefact.batch_size):
        return f"the package takes batches of {artefact.batch_size}, not {batch_size}; leave -b out, or {rebuild} -b {batch_size}"
    return None


class CompiledRunner:
    """Runs a bundle's compiled package.

    Args:
        bundle: an opened bundle; the package is checked against the manifest's hash.
        objective: name of the objective.
        l0: mean realness of real images; for objectives that need it, it must be what was compiled in.
        resolution: image size in pixels.
        device: ``"auto"`` or ``"cpu"``.
        dtype: of the network inside the package.

    Raises:
        BadInputError: the bundle has no such package, or it was compiled for another machine.
    """

    name = "compile"
    device = "cpu"

    def __init__(
        self,
        bundle: Bundle,
        *,
        objective: str,
        l0: float | None,
        resolution: int,
        device: str = "auto",
        dtype: str = "fp32",
    ):
        why = why_unusable(bundle, objective=objective, l0=l0, resolution=resolution, device=device, dtype=dtype)
        if why is not None:
            raise BadInputError(f"engine 'compile' cannot run this: {why}")
        self.dtype = dtype
        name = artefact_name(objective, dtype, resolution)
        self.batch_size = bundle.config.artefacts[name].batch_size
        self._package = load_package(bundle.checked_path(name))
        self._bundle, self._objective, self._l0 = bundle, objective, l0
        self._precise: EagerRunner | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        del self._package
        self._precise = None

    def put(self, array: np.ndarray[Any, Any]) -> torch.Tensor:
        """`array` as a tensor."""
        return torch.from_numpy(array)

    def get(self, array: torch.Tensor) -> np.ndarray[Any, Any]:
        """A tensor as numpy."""
        return array.numpy()

    def gradient(self, x: torch.Tensor, y: torch.Tensor, *, precise: bool = False) -> Gradient:
        """The objective's gradient for `x` float32 [B, C, H, W], classes `y` int64 [B], B being the package's batch size."""
        if precise and self.dtype != "fp32":
            self._precise = self._precise or EagerRunner(
                self._bundle, objective=self._objective, l0=self._l0, device="cpu"
            )
            return self._precise.gradient(x, y)
        return Gradient(*self._package(x.contiguous(), y))

    def evaluate(self, x: torch.Tensor, y: torch.Tensor) -> Evaluation:
        """Class logit and prediction for `x`."""
        _, class_logit, _, predicted = self.gradient(x, y)
        return Evaluation(class_logit, predicted)


def load_package(path: Path) -> Any:
    """A compiled package as a function of (x, y).

    Raises:
        BadInputError: torch cannot load it.
    """
    try:
        return torch._inductor.aoti_load_package(str(path))
    except Exception as e:  # the loader raises RuntimeError and whatever dlopen says
        reason = " ".join(str(e).split())[:200]
        raise BadInputError(f"torch {torch.__version__} cannot load {path} ({reason}); export the bundle again") from e
