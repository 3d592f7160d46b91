"""The Fréchet distance between Gaussians fitted to features: FID and sFID."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .moments import Moments, moments


class Frechet:
    """Distance to a reference: |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), Dowson and Landau 1982.

    tr (S_a S_b)^(1/2) is computed as tr (R S_b R)^(1/2) with R = S_a^(1/2). The matrix R S_b R is symmetric, and its
    eigenvalues are real and not negative, even for singular covariances. The general square root of S_a S_b fails for
    those.

    Args:
        reference: moments of the reference.
        device: device to compute on, in float64.

    Attributes:
        dimensions: D.
        count: number of the reference's images; None if a file of statistics does not give it.
    """

    def __init__(self, reference: Moments, device: str = "cpu"):
        self.dimensions, self.count = len(reference.mu), reference.count
        self._mu, sigma = reference.mu.to(device), reference.sigma.to(device)
        values, vectors = torch.linalg.eigh(sigma)
        self._root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
        self._trace = sigma.trace()

    def __call__(self, other: Moments) -> float:
        """The squared distance, as FID is customarily given; if rounding makes it negative, zero."""
        sigma = other.sigma.to(self._root.device)
        cross = torch.linalg.eigvalsh(self._root @ sigma @ self._root).clamp_min(0).sqrt().sum()
        difference = self._mu - other.mu.to(self._mu.device)
        return max(0.0, float(difference.dot(difference) + self._trace + sigma.trace() - 2 * cross))


def frechet_distances(
    features: Tensor, reference: Frechet, weights: Tensor, *, device: str = "cpu", on_step: Callable[[], None]
) -> Tensor:
    """FID of a set, and of resamples of its rows.

    Args:
        features: float32 [N, D] of the samples, on the CPU.
        reference: the reference to compare them with.
        weights: [1 + R, N]; the first row is all ones, each other row counts how often a resample has each image.
        device: device to compute on.
        on_step: called after each distance.

    Returns:
        float64 [1 + R] on the CPU.
    """
    whole = moments(features, features[:1024].double().mean(0), device=device)
    distances = [reference(whole)]
    on_step()
    centre = whole.mu.cpu()
    for row in weights[1:]:
        distances.append(reference(moments(features, centre, weights=row, device=device)))
        on_step()
    return torch.tensor(distances, dtype=torch.float64)
