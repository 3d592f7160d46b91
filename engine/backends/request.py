"""What a run asks of an engine, and what the engines that run exported graphs answer alike."""

from __future__ import annotations

from dataclasses import dataclass

from jboost.engine.bundle import Bundle
from jboost.engine.method.objectives import NEEDS_L0


@dataclass(frozen=True)
class RunRequest:
    """What a run asks of an engine, besides the bundle.

    Attributes:
        objective: name of what a step minimises.
        l0: mean realness of real images (eq. 13); None where it is not known. Graphs of objectives that need it hold it as a
            constant.
        resolution: image size in pixels.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        dtype: of the network, ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        batch_size: images in flight; None where the user named no number.
    """

    objective: str
    l0: float | None
    resolution: int
    device: str = "auto"
    dtype: str = "fp32"
    batch_size: int | None = None


def export_command(format: str, request: RunRequest, *, batch_size: int | None = None) -> str:
    """The command that exports the graph a request needs.

    It warns that an export replaces the bundle, so it comes last in a message.
    """
    batch = "" if batch_size is None else f" -b {batch_size}"
    return (
        f"jboost export --ckpt FILE --format {format} --objective {request.objective} --dtype {request.dtype} "
        f"--resolution {request.resolution}{batch} (an export replaces the bundle: name all that it is to hold, and --real)"
    )


def why_no_graph(bundle: Bundle, name: str, format: str, request: RunRequest) -> str | None:
    """Why the bundle's graph called `name`, if any, cannot serve a request; None if it can."""
    if name not in bundle.config.artefacts and request.dtype == "bf16":
        return f"there are no {format} graphs in bf16; use --engine compile or eager, or --dtype fp16"
    if name not in bundle.config.artefacts:
        return (
            f"bundle {bundle.path} has no {format} graph for objective {request.objective}, {request.dtype}, "
            f"{request.resolution}x{request.resolution}; export it with: {export_command(format, request)}"
        )
    if request.objective in NEEDS_L0 and request.l0 != bundle.config.l0:
        return (
            f"the graph was exported with l0 {bundle.config.l0}, not {request.l0}; leave --l0 out, use --engine eager or "
            "compile, or export again"
        )
    return None
