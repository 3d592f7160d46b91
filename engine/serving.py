"""Whether a bundle has the exported graph that a run needs: what the engines that run such graphs ask alike."""

from __future__ import annotations

from .bundle import Bundle
from .objectives import NEEDS_L0


def export_command(format: str, *, objective: str, dtype: str, resolution: int) -> str:
    """What to type to get a graph."""
    return (
        f"jboost export --ckpt FILE --format {format} --objective {objective} --dtype {dtype} --resolution {resolution}"
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
    if name not in bundle.config.artefacts:
        return (
            f"bundle {bundle.path} has no {format} graph for objective {objective}, {dtype}, {resolution}x{resolution}; "
            f"export it with: {export_command(format, objective=objective, dtype=dtype, resolution=resolution)}"
        )
    if objective in NEEDS_L0 and l0 != bundle.config.l0:
        return f"the graph was exported with l0 {bundle.config.l0}, not {l0}; leave --l0 out, use --engine eager, or export again"
    return None
