"""One run per combination: it leaves a snapshot at every step count, and each is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from jboost.booster import Booster
from jboost.engine.loop.run import Progress as Boosting
from jboost.engine.method.settings import make_update
from jboost.engine.method.updates import Update

from .grid import Combination, Setting
from .subset import Subset
from .yardstick import Progress, Yardstick

#: Bytes of images and snapshots in memory at a time.
_BYTES = 256 << 20
_FEWEST = 32


@dataclass(frozen=True)
class Rules:
    """What all runs share; None for the run's own default, as in `jboost boost`."""

    l0: float | None
    early_stop: bool | None
    seed: int


@dataclass(frozen=True)
class Run:
    """A combination, measured.

    Attributes:
        settings: one for each step count, ascending.
        features: by step count, float32 [n, D] of the images.
        engine: the engine that ran it.
        early_stop: whether images stopped at l0.
        failed: images left as they were because a gradient or logit was not finite.
        seconds: how long it took, features included.
    """

    settings: tuple[Setting, ...]
    features: dict[int, Tensor]
    engine: str
    early_stop: bool
    failed: int
    seconds: float


def update_of(combination: Combination, steps: int) -> Update:
    """The combination's update with `steps` steps."""
    return make_update(update=combination.update, steps=steps, step_size=combination.step_size, noise=combination.noise)


def measure(
    booster: Booster,
    subset: Subset,
    yardstick: Yardstick,
    combination: Combination,
    steps: Sequence[int],
    rules: Rules,
    on_progress: Progress,
) -> Run:
    """Boost the subset and measure it at each step count; an image's noise is that of a run of the whole set.

    Args:
        booster: the opened bundle.
        subset: the images.
        yardstick: measures them.
        combination: what to run.
        steps: step counts, ascending, each at least 1.
        rules: what all runs share.
        on_progress: called as the work proceeds.
    """
    start, count = perf_counter(), len(subset.images)
    held = subset.images[0].nbytes * (len(steps) + 1)
    # An image's result does not depend on the others, so the subset may be cut.
    at_once = max(_FEWEST, _BYTES // held)
    found: dict[int, list[Tensor]] = {step: [] for step in steps}
    records, realness, engine, early_stop = [], dict.fromkeys(steps, 0.0), "", False
    for first in range(0, count, at_once):
        part = slice(first, min(first + at_once, count))

        def boosting(now: Boosting, first: int = first) -> None:
            on_progress("boosting", first + int(now.finished), count)

        done = booster.boost(
            subset.images[part], None if subset.labels is None else subset.labels[part],
            update_of(combination, steps[-1]), objective=combination.objective, l0=rules.l0, early_stop=rules.early_stop,
            seed=rules.seed, numbers=subset.numbers[part], snapshots=steps, on_progress=boosting,
        )  # fmt: skip
        records.append(done.records)
        engine, early_stop = done.summary.engine, done.summary.early_stop
        for taken in done.summary.snapshots:
            share = (part.stop - part.start) / count
            realness[taken["step"]] += share * (np.nan if taken["realness"] is None else taken["realness"])
        for step, images in done.snapshots.items():
            found[step].append(yardstick.features(images))
    taken_steps = np.concatenate(records)["steps"]
    features = {step: torch.cat(parts) for step, parts in found.items()}
    settings = tuple(
        Setting(
            combination,
            step,
            yardstick.fid(features[step]),
            float(np.minimum(taken_steps, step).mean()),
            None if np.isnan(realness[step]) else realness[step],
        )
        for step in steps
    )
    failed = int(np.concatenate(records)["failed"].sum())
    return Run(settings, features, engine, early_stop, failed, perf_counter() - start)
