"""The compiled packages of a bundle: their names, what each is tied to, whether one serves a run, and how one is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from jboost.engine.backends.request import export_command, why_no_graph
from jboost.engine.backends.torch_device import find_device, set_tf32
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, one_line


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
        step: the package for a kind of update, see `jboost.engine.method.step.advance`.
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

    def step(kind: str) -> Path:
        step = step_name(kind, resolution, device)
        if step not in bundle.config.artefacts:
            raise BadInputError(
                f"bundle {bundle.path} has no compiled step for the update {kind}: the export did not know it; export the bundle "
                "again where the update is registered, or use --engine eager"
            )
        return bundle.checked_path(step)

    return Packages(
        bundle.checked_path(name),
        bundle.checked_path(forward_name(dtype, resolution, device)),
        step,
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
