"""Bootstrap: how far a number would move with other samples of the same generator."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95


class Interval(NamedTuple):
    """Percentiles of the resamples, shifted by minus the bias.

    Attributes:
        low, high: the ends of the interval.
        bias: mean of the resamples minus the estimate. A resample holds two thirds of the distinct images, and FID
            rises as images get fewer. Without the shift, the interval of a FID of few images would lie above the FID.
    """

    low: float
    high: float
    bias: float


def resample_weights(count: int, resamples: int, seed: int) -> Tensor:
    """Draw how often each image is in each resample (Efron 1979): uint8 [1 + resamples, count].

    The first row is all ones. Sets of the same size get the same resamples, so images at the same position in two sets
    are drawn together. If one set was made from the other, the change between them is thus estimated in pairs.
    """
    rng = np.random.default_rng(seed)
    rows = [np.ones(count, np.uint8)]
    for _ in range(resamples):
        rows.append(np.bincount(rng.integers(count, size=count), minlength=count).astype(np.uint8))
    return torch.from_numpy(np.stack(rows))


def interval(values: Tensor, least: float = -math.inf, most: float = math.inf) -> Interval | None:
    """The interval at `LEVEL` from an estimate and its resamples, [1 + R], clipped to `least` and `most`.

    None without resamples.
    """
    estimate, drawn = float(values[0]), values[1:][values[1:].isfinite()].numpy()
    if len(drawn) == 0:
        return None
    bias = float(drawn.mean()) - estimate
    low, high = np.quantile(drawn - bias, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).clip(least, most)
    return Interval(float(low), float(high), bias)


def change_interval(before: Tensor, after: Tensor) -> tuple[float, float] | None:
    """The interval of the change in percent, from two estimates with the same resamples, each [1 + R].

    None without resamples, or if the number before reaches zero. Sets of different sizes have different resamples, so
    the interval has no meaning for them.
    """
    both = torch.stack([before[1:], after[1:]])
    both = both[:, both.isfinite().all(0)]
    # Shifted by the bias, as in `interval`.
    unbiased = both - both.mean(1, keepdim=True) + torch.stack([before[:1], after[:1]])
    if unbiased.shape[1] == 0 or bool((unbiased[0] <= 0).any()):
        return None
    change = (100 * (unbiased[1] / unbiased[0] - 1)).numpy()
    low, high = np.quantile(change, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
