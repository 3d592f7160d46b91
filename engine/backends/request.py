"""The request of a run to an engine, and the checks that all engines with exported graphs share."""

from __future__ import annotations

from dataclasses import dataclass

from jboost.engine.bundle import Bundle
from jboost.engine.method.objectives import NEEDS_L0


@dataclass(frozen=True)
class RunRequest:
    """What an engine is to compute, apart from the bundle.

    Attributes:
        objective: name of the objective that a step minimises.
        l0: mean realness of real images (eq. 13); None if unknown. A graph whose objective needs l0 contains it as a
            constant.
        resolution: image size in pixels.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        dtype: the network's dtype, ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        batch_size: images in flight; None if the user gave no number.
    """

    objective: str
    l0: float | None
    resolution: int
    device: str = "auto"
    dtype: str = "fp32"
    batch_size: int | None = None


def export_command(format: str, request: RunRequest, *, batch_size: int | None = None) -> str:
    """The command that exports the graph a request needs.

    The text ends with a warning that an export replaces the bundle, so it belongs at the end of a message.
    """
    batch = "" if batch_size is None else f" -b {batch_size}"
    return (
        f"jboost export --ckpt FILE --format {format} --objective {request.objective} --dtype {request.dtype} "
        f"--resolution {request.resolution}{batch} (an export replaces the bundle: name everything it should contain, "
        "and --real)"
    )


def why_no_graph(bundle: Bundle, name: str, format: str, request: RunRequest) -> str | None:
    """Why the bundle's graph called `name` cannot serve a request (it may be missing); None if it can."""
    if name not in bundle.config.artefacts and request.dtype == "bf16":
        return f"there are no {format} graphs in bf16; use --engine compile or eager, or --dtype fp16"
    if name not in bundle.config.artefacts:
        return (
            f"bundle {bundle.path} has no {format} graph for objective {request.objective}, {request.dtype}, "
            f"{request.resolution}x{request.resolution}; export one with: {export_command(format, request)}"
        )
    if request.objective in NEEDS_L0 and request.l0 != bundle.config.l0:
        return (
            f"the graph was exported with l0 {bundle.config.l0}, not {request.l0}; leave --l0 out, use --engine eager "
            "or compile, or export again"
        )
    return None
