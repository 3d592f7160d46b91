"""Whether a bundle has the exported graph that a run needs: what the engines that run such graphs ask alike."""

from __future__ import annotations

from jboost.engine.bundle import Bundle
from jboost.engine.method.objectives import NEEDS_L0


def export_command(format: str, *, objective: str, dtype: str, resolution: int, batch_size: int | None = None) -> str:
    """What to type to get a graph, with a word of warning: it comes last in a message."""
    batch = "" if batch_size is None else f" -b {batch_size}"
    return (
        f"jboost export --ckpt FILE --format {format} --objective {objective} --dtype {dtype} --resolution {resolution}{batch} "
        "(an export replaces the bundle: name all that it is to hold, and --real)"
    )


def why_no_graph(
    bundle: Bundle,
    name: str,
    format: str,
    *,
    objective: str,
    l0: float | None,
    resolution: int,
    dtype: str,
) -> str | None:
    """Why the bundle's graph called `name`, if any, cannot serve a run; None if it can."""
    if name not in bundle.config.artefacts and dtype == "bf16":
        return f"there are no {format} graphs in bf16; use --engine compile or eager, or --dtype fp16"
    if name not in bundle.config.artefacts:
        return (
            f"bundle {bundle.path} has no {format} graph for objective {objective}, {dtype}, {resolution}x{resolution}; "
            f"export it with: {export_command(format, objective=objective, dtype=dtype, resolution=resolution)}"
        )
    if objective in NEEDS_L0 and l0 != bundle.config.l0:
        return (
            f"the graph was exported with l0 {bundle.config.l0}, not {l0}; leave --l0 out, use --engine eager or compile, or "
            "export again"
        )
    return None
