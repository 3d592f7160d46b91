"""The learning rate as a pure function of the iteration, so a resumed run needs only the iteration's number."""

from __future__ import annotations

import math
from collections.abc import Sequence


def learning_rate_at(
    iteration: int,
    *,
    peak: float,
    iterations: int,
    schedule: str = "cosine",
    warmup: int = 0,
    milestones: Sequence[int] = (),
    gamma: float = 0.1,
) -> float:
    """The learning rate of one optimizer step.

    Args:
        iteration: counted from 0.
        peak: the largest learning rate.
        iterations: number of iterations of the run.
        schedule: the rate after the warm-up. ``"cosine"``: half a cosine down to zero at the end; ``"step"``: times
            `gamma` from each of the `milestones` on; ``"constant"``.
        warmup: number of iterations over which the rate rises linearly; it is peak / warmup at the first.
        milestones: iterations, for ``"step"``.
        gamma: factor, for ``"step"``.
    """
    if iteration < warmup:
        return peak * (iteration + 1) / warmup
    if schedule == "cosine":
        progress = (iteration - warmup) / max(1, iterations - warmup)
        return peak * 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == "step":
        return peak * gamma ** sum(iteration >= milestone for milestone in milestones)
    return peak
