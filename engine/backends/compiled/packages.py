"""The compiled packages of a bundle: their names, their target machine, whether one can serve a run, and loading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch

from jboost.engine.backends.request import RunRequest, export_command, why_no_graph
from jboost.engine.backends.torch_device import find_device, set_tf32
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, FailureError, one_line
from jboost.engine.method.sources import versioned
from jboost.engine.method.updates import MOVES
from jboost.engine.system.devices import DeviceName, device_kind
from jboost.engine.system.memory import lacks_memory
from jboost.engine.system.unpacking import unpacking
from jboost.engine.system.unpacking import why_unusable as why_unusable_folder


def artefact_name(objective: str, dtype: str, resolution: int, device: str) -> str:
    """The name of a compiled package in a bundle's manifest; `device` is a torch device string."""
    return f"compile/{device_kind(device)}/{objective}/{dtype}/{resolution}"


def forward_name(dtype: str, resolution: int, device: str) -> str:
    """The name of a compiled forward pass in a bundle's manifest."""
    return f"compile/{device_kind(device)}/forward/{dtype}/{resolution}"


def step_name(update_kind: str, resolution: int, device: str) -> str:
    """The name of a compiled step in a bundle's manifest, with the version of an update from outside jboost."""
    versioned_kind = versioned(update_kind, MOVES.get(update_kind))
    return f"compile/{device_kind(device)}/step/{versioned_kind}/{resolution}"


def machine_target(device: str) -> str:
    """What a package is tied to: the CPU's instruction set or the GPU's compute capability and name; torch's version.

    Inductor compiles for the machine it runs on, and its code calls torch's libraries by their symbols.
    """
    if device_kind(device) == "cpu":
        return f"cpu {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    major, minor = torch.cuda.get_device_capability(device)
    return f"cuda {major}.{minor}, {torch.cuda.get_device_name(device)}, torch {torch.__version__}"


def runs_here(target: str, device: str) -> bool:
    """Whether a package compiled for `target` runs on this machine's `device`; False for CUDA if torch finds none."""
    return (device_kind(device) == "cpu" or torch.cuda.is_available()) and target == machine_target(device)


@dataclass(frozen=True)
class Packages:
    """The compiled packages of a run.

    Attributes:
        gradient: (x, y) -> (grad, class_logit, loss, predicted).
        forward: (x, y) -> (class_logit, predicted).
        step: the package for an update kind, see `jboost.engine.method.step.advance`.
        batch_size: the number of images that each package takes.
    """

    gradient: Path
    forward: Path
    step: Callable[[str], Path]
    batch_size: int


def packages_of(bundle: Bundle, request: RunRequest, device: str) -> Packages:
    """A bundle's own packages for a request, checked against the manifest's hashes; `device` is a torch device string.

    Raises:
        BadInputError: a package is missing or changed.
    """
    dtype, resolution = request.dtype, request.resolution
    name = artefact_name(request.objective, dtype, resolution, device)

    def step(update_kind: str) -> Path:
        step = step_name(update_kind, resolution, device)
        if step not in bundle.config.artefacts:
            raise BadInputError(
                f"bundle {bundle.path} has no compiled step for the update {update_kind}: it was not registered at export, or "
                "its source has changed; export the bundle again with --update, or use --engine eager"
            )
        return bundle.checked_path(step)

    return Packages(
        bundle.checked_path(name),
        bundle.checked_path(forward_name(dtype, resolution, device)),
        step,
        bundle.artefact(name).batch_size or 1,
    )


def why_unusable(bundle: Bundle, request: RunRequest) -> str | None:
    """Why the bundle cannot serve a request with a compiled package; None if it can.

    Raises:
        BadInputError: this machine does not have the device.
    """
    device, batch_size = find_device(request.device), request.batch_size
    name = artefact_name(request.objective, request.dtype, request.resolution, device)
    why = why_no_graph(bundle, name, "compile", request)
    if why is not None:
        return why
    rebuild = f"export it with: {export_command('compile', request)}"
    artefact, here = bundle.config.artefacts[name], machine_target(device)
    if artefact.target != here:
        return f"the package was compiled for {artefact.target}, this machine is {here}; {rebuild}"
    if batch_size not in (None, artefact.batch_size):
        return (
            f"the package takes batches of {artefact.batch_size}, not {batch_size}; leave -b out, or export it with: "
            f"{export_command('compile', request, batch_size=batch_size)}"
        )
    return bundle.why_untrusted(name)  # last, because trusting a package that cannot run here would be in vain


def load_package(path: Path, device: str) -> Callable[..., list[torch.Tensor]]:
    """A compiled package as a function of tensors on `device`, in the order of the export.

    Nothing of it stays in the temporary folder, where torch unpacks it.

    Raises:
        BadInputError: torch cannot load it, or the temporary folder cannot take its files.
    """
    try:
        # torch._inductor.aoti_load_package wraps AOTIModelPackageLoader. Importing torch._inductor loads the whole
        # compiler, which takes two seconds and is not needed here. On CUDA the loader runs single-threaded: a graph
        # capture forbids its synchronisation between threads.
        where = DeviceName.parse(device)
        cuda = where.kind == "cuda"
        index = (torch.cuda.current_device() if where.number is None else where.number) if cuda else -1
        if cuda:
            set_tf32(False)  # float32 means float32
        # A package for a GPU reads the code of its kernels when they first run.
        with unpacking(keep=cuda):
            loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", cuda, 1, index)
    except Exception as e:  # the loader raises RuntimeError and whatever dlopen raises
        reason = one_line(e)
        if lacks_memory(e):
            raise FailureError(f"there is no memory to load {path} ({reason}); free some") from e
        if (why := why_unusable_folder(_unpacked_size(path))) is not None:
            raise BadInputError(f"torch {torch.__version__} cannot unpack {path}: {why}") from e
        raise BadInputError(f"torch {torch.__version__} cannot load {path} ({reason}); export the bundle again") from e

    def run(*tensors: torch.Tensor) -> list[torch.Tensor]:
        return loader.run(list(tensors))

    return run


def _unpacked_size(path: Path) -> int:
    """Bytes of a package's files; 0 if it is no archive."""
    try:
        with ZipFile(path) as archive:
            return sum(info.file_size for info in archive.infolist())
    except (OSError, BadZipFile):
        return 0
