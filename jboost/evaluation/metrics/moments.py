"""Means and covariances of features: of a whole set, of batches as they arrive, or of bootstrap resamples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_ROWS = 1024  # rows in float64 at a time: 16 MiB at 2,048 dimensions


@dataclass(frozen=True)
class Moments:
    """The mean and covariance of a set: FID uses nothing else.

    Attributes:
        mu: float64 [D], the mean.
        sigma: float64 [D, D], the covariance, divided by N - 1 as in every implementation of FID.
        count: N; None if a file of statistics does not give it.
    """

    mu: Tensor
    sigma: Tensor
    count: int | None = None

    def to(self, device: str) -> Moments:
        """The same, on another device."""
        return Moments(self.mu.to(device), self.sigma.to(device), self.count)


class RunningMoments:
    """Moments of rows that arrive in batches.

    Only two sums are kept, relative to the first batch's mean for accuracy.
    """

    def __init__(self) -> None:
        self._shift: Tensor | None = None
        self._sum: Tensor
        self._outer: Tensor
        self._count = 0

    def add(self, rows: Tensor) -> None:
        """Add `rows` [B, D] of any float dtype."""
        x = rows.double()
        if self._shift is None:
            self._shift = x.mean(0)
            self._sum = torch.zeros_like(self._shift)
            self._outer = x.new_zeros(x.shape[1], x.shape[1])
        x = x - self._shift
        self._sum += x.sum(0)
        self._outer.addmm_(x.T, x)
        self._count += len(x)

    def finish(self) -> Moments:
        """The moments of all added rows, at least two. It overwrites the sums, so nothing can be added afterwards."""
        assert self._shift is not None
        mean = self._sum / self._count
        return Moments(self._shift + mean, _covariance(self._outer, mean, self._count), self._count)


def _covariance(outer: Tensor, mean: Tensor, count: int) -> Tensor:
    """The covariance from the sum of outer products, in place: at 2,048 dimensions a matrix takes 32 MiB."""
    return outer.addr_(mean, mean, alpha=-count).div_(count - 1)


def moments(features: Tensor, shift: Tensor, *, weights: Tensor | None = None, device: str = "cpu") -> Moments:
    """Moments of `features`, or of a resample of them.

    Args:
        features: float32 [N, D] on the CPU.
        shift: float64 [D], near the mean; it is subtracted first, so that nothing cancels.
        weights: how often each row was drawn, [N], N draws in total; None: every row once.
        device: device to compute on.

    Returns:
        Moments on `device`, computed in float64; for a resample in float32, whose rounding (1e-6) is negligible beside
        the scatter of resamples.
    """
    n, dimensions = features.shape
    dtype = torch.float64 if weights is None else torch.float32
    if weights is not None:
        drawn = weights.nonzero()[:, 0]  # two thirds of the rows
        counts = weights[drawn].to(device, dtype)
    rows = n if weights is None else len(drawn)
    origin = shift.to(device, dtype)
    total = torch.zeros(dimensions, dtype=torch.float64, device=device)
    outer = torch.zeros(dimensions, dimensions, dtype=torch.float64, device=device)
    for start in range(0, rows, _ROWS):
        stop = min(start + _ROWS, rows)
        part = features[start:stop] if weights is None else features[drawn[start:stop]]
        x = part.to(device, dtype) - origin
        weighted = x if weights is None else x * counts[start:stop, None]
        total += weighted.sum(0)
        outer += weighted.T @ x
    mean = total / n
    return Moments(shift.to(device) + mean, _covariance(outer, mean, n), n)
