"""The length of the attack on generated images: it grows with the iterations, or with what the model has learned.

The paper adds a step every so many iterations (section 3.1.2 of arXiv 2405.16260). Dual adversarial training (arXiv
2510.13872) adds one as soon as the model tells real images from attacked ones: when the AUC between them, averaged over
the last batches, reaches a threshold.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from .adversarial import AdversarialConfig


def roc_auc(real: ArrayLike, attacked: ArrayLike) -> float:
    """The share of pairs in which the real image scores higher; a tie counts half.

    It is the area under the ROC curve, from counts of integers, so the order of the scores does not change a bit of it.

    Args:
        real, attacked: scores, [n] and [m], n and m at least 1.

    Returns:
        The area in [0, 1]; NaN if a score is NaN.
    """
    ours, theirs = np.asarray(real, np.float64), np.asarray(attacked, np.float64)
    if np.isnan(ours).any() or np.isnan(theirs).any():
        return math.nan
    ours = np.sort(ours)
    lower, not_above = np.searchsorted(ours, theirs, "left"), np.searchsorted(ours, theirs, "right")
    twice = int((2 * len(ours) - lower - not_above).sum())  # a win counts 2, a tie 1
    return twice / (2 * len(ours) * len(theirs))


class AttackLength:
    """The number of steps that the attack on generated images may take, iteration by iteration.

    Args:
        config: the rule of growth.
        batch_size: number of real images per iteration, over all processes and accumulated batches.
    """

    def __init__(self, config: AdversarialConfig, batch_size: int):
        self._config = config
        self._steps = config.generated_attack.steps
        # As many batches as hold the images of the average.
        self._seen: deque[float] = deque(maxlen=math.ceil(config.grow_images / batch_size))

    def at(self, iteration: int) -> int:
        """The number of steps at `iteration`, counted from 0. Ask in order: growth by AUC knows the present only."""
        return self._steps if self._config.grow_auc is not None else self._config.attack_at(iteration).steps

    def see(self, auc: float) -> None:
        """Take note of the AUC of one iteration's batch; the next iteration's attack may be a step longer."""
        config = self._config
        self._seen.append(auc)
        full = len(self._seen) == self._seen.maxlen
        if not full or (config.max_steps is not None and self._steps >= config.max_steps):
            return
        assert config.grow_auc is not None
        if math.fsum(self._seen) / len(self._seen) >= config.grow_auc:
            self._steps += 1
            self._seen.clear()  # the AUCs under a shorter attack do not speak for the longer one

    def facts(self) -> dict[str, Any]:
        """All that `restore` needs, as JSON values."""
        return {"steps": self._steps, "auc": list(self._seen)}

    def restore(self, facts: Mapping[str, Any]) -> None:
        """Continue from the output of `facts`."""
        self._steps = int(facts["steps"])
        self._seen.clear()
        self._seen.extend(float(auc) for auc in facts["auc"])
