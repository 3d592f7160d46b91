"""The request of a run to an engine, and the checks that all engines with exported graphs share."""

from __future__ import annotations

from dataclasses import dataclass

from jboost.engine.bundle import Bundle
from jboost.engine.method.objectives import NEEDS_L0, typed
from jboost.engine.method.sources import SEPARATOR


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
        f"jboost export --ckpt FILE --format {format} --objective {typed(request.objective)} --dtype {request.dtype} "
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
            f"{request.resolution}x{request.resolution}{_of_other_source(bundle, request.objective)}; export one with: "
            f"{export_command(format, request)}"
        )
    if request.objective in NEEDS_L0 and request.l0 != bundle.config.l0:
        return (
            f"the graph was exported with l0 {bundle.config.l0}, not {request.l0}; leave --l0 out, use --engine eager "
            "or compile, or export again"
        )
    return None


def _of_other_source(bundle: Bundle, objective: str) -> str:
    """Says so if the bundle has graphs of another version of an objective from outside jboost."""
    name, separator, _ = objective.partition(SEPARATOR)
    held = {a.objective for a in bundle.config.artefacts.values() if a.objective is not None}
    others = sorted(o for o in held if separator and o.startswith(name + SEPARATOR) and o != objective)
    return f" (it has {', '.join(others)}: the source has changed since)" if others else ""
