"""An update as a user would add it: importing this registers it. `test_registered_update` runs it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from jboost.engine.method.arrays import namespace
from jboost.engine.method.noise import normal
from jboost.engine.method.updates import Option, Strengths, Update, register


def tamed(x, x0, grad, index, step, how):
    """x <- x - a g / (1 + a |g|) + noise * N(0, I), entry by entry."""
    drift = grad / (1 + how.step_size * namespace(grad).abs(grad))
    return x - how.step_size * drift + how.noise * normal(tuple(x.shape[1:]), key=how.key, index=index, step=step)


@register("tamed")
@dataclass(frozen=True)
class TamedLangevin(Update):
    """Brosse, Durmus, Moulines, Sabanis, "The tamed unadjusted Langevin algorithm", 2019: no step is longer than 1."""

    steps: Annotated[int, Option("maximum number of steps per image", least=0)] = 15
    step_size: Annotated[float, Option("factor of the gradient", least=0, exclusive=True)] = 0.004
    temperature: Annotated[float, Option("temperature of the noise", least=0)] = 0.0
    moves: ClassVar = {"tamed": tamed}

    def strengths(self) -> Strengths:
        """The step size, and the noise of this temperature."""
        return Strengths(self.step_size, noise=math.sqrt(2 * self.step_size * self.temperature))
