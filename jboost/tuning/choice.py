"""Which setting to use: the one with the fewest gradients among those that are as good as the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from jboost.evaluation.metrics.bootstrap import interval

from .grid import Combination, Setting, best_of
from .yardstick import Progress, Yardstick

#: The rule, for tables and files.
RULE = (
    "of the settings inside the best one's 95% interval (~), in order of gradients per image, the first whose FID minus the best "
    "one's, on the same bootstrap resamples of the images, has a 95% interval that reaches 0"
)
RULE_WITHOUT = "the lowest FID (no bootstrap)"

FeaturesOf = Callable[[Setting], Tensor]


@dataclass(frozen=True)
class Choice:
    """What was decided.

    Attributes:
        best: the setting of the lowest FID.
        interval: its 95% interval; None without bootstrap.
        inside: the settings whose FID lies inside it, the best one among them.
        chosen: the setting to use.
        difference: 95% interval of its FID minus the best one's; None if it is the best one, or without bootstrap.
    """

    best: Setting
    interval: tuple[float, float] | None
    inside: tuple[Setting, ...]
    chosen: Setting
    difference: tuple[float, float] | None


def choose(
    settings: Sequence[Setting],
    features: Mapping[tuple[Combination, int], Tensor],
    yardstick: Yardstick,
    *,
    resamples: int,
    seed: int,
    on_progress: Progress,
) -> Choice:
    """Apply `RULE`; without resamples, take the lowest FID.

    Args:
        settings: all settings that were measured.
        features: by combination and steps, the features of every setting that may be chosen.
        yardstick: measured them.
        resamples, seed: of the bootstrap.
        on_progress: called as the work proceeds.
    """
    best = best_of(settings)
    if resamples == 0:
        return Choice(best, None, (best,), best, None)

    def drawn(setting: Setting) -> Tensor:
        done = 0

        def on_step() -> None:
            nonlocal done
            done += 1
            on_progress("bootstrap", done, 1 + resamples)

        return yardstick.resampled(features[setting.combination, setting.steps], resamples, seed, on_step)

    of_best = drawn(best)
    bounds = interval(of_best, least=0.0)
    assert bounds is not None
    inside = [s for s in settings if s.fid <= bounds.high and (s.combination, s.steps) in features]
    inside.sort(key=lambda s: (s.gradients, s.fid))
    for setting in inside:
        if setting == best:
            break
        apart = interval(drawn(setting) - of_best)
        assert apart is not None
        if apart.low <= 0:
            return Choice(best, (bounds.low, bounds.high), tuple(inside), setting, (apart.low, apart.high))
    return Choice(best, (bounds.low, bounds.high), tuple(inside), best, None)
