"""Images as a few numbers for a generator to work on: their principal components, laid out as a square."""

from __future__ import annotations

import torch

# Components are clipped at this many standard deviations.
_REACH = 3.0


class Codes:
    """Principal components of a set of images.

    Args:
        images: float32 [N, C, H, W] in [0, 1].
        size: S; S * S components are kept.
    """

    def __init__(self, images: torch.Tensor, size: int):
        self.shape, self.size = images.shape[1:], size
        flat = images.flatten(1)
        self._mean = flat.mean(0)
        values, vectors = torch.linalg.eigh(torch.cov(flat.T))
        self._axes = vectors.flip(1)[:, : size * size]
        self._reach = _REACH * values.flip(0)[: size * size].clamp_min(1e-12).sqrt()

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, 1, S, S] in [0, 1]."""
        codes = (images.flatten(1) - self._mean) @ self._axes / self._reach
        return (codes.clamp(-1, 1) / 2 + 0.5).reshape(-1, 1, self.size, self.size)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """[N, 1, S, S] in [0, 1] -> [N, C, H, W] in [0, 1]."""
        flat = (codes.flatten(1) * 2 - 1) * self._reach @ self._axes.T + self._mean
        return flat.clamp(0, 1).reshape(-1, *self.shape)
