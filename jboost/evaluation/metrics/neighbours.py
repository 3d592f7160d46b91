"""Precision and recall, density and coverage: how two sets of features overlap, by their nearest neighbours.

Kynkäänniemi et al. 2019 (arXiv 1904.06991) with k = 3; Naeem et al. 2020 (arXiv 2002.09797) with k = 5, both as in the
papers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

PRECISION_K, DENSITY_K = 3, 5
_BLOCK = 2048  # rows per side: a block of distances takes 16 MiB


@dataclass(frozen=True)
class Overlap:
    """The four metrics, each float64 [1 + R]: of the set, then of resamples of its rows.

    An image's ball reaches to its k-th nearest neighbour in its own set.

    Attributes:
        precision: share of the samples that lie in some reference image's ball.
        recall: share of the reference that lies in some sample's ball.
        density: mean number of reference balls that a sample lies in, divided by k.
        coverage: share of the reference's balls that hold a sample.
    """

    precision: Tensor
    recall: Tensor
    density: Tensor
    coverage: Tensor


def overlap(
    features: Tensor,
    reference: Tensor,
    weights: Tensor,
    *,
    device: str = "cpu",
    block: int = _BLOCK,
    on_step: Callable[[], None],
) -> Overlap:
    """Compute the four metrics, with no more than `block` x `block` distances in memory at a time.

    A ball is closed for precision and recall, open for density and coverage, as in the authors' code. In a resample the
    samples' own balls keep the radii that they have in the whole set.

    Args:
        features: float32 [N, D] of the samples; N above `PRECISION_K`.
        reference: float32 [M, D]; M above `DENSITY_K`.
        weights: [1 + R, N]; the first row is all ones, each other row counts how often a resample has each image.
        device: device to compute on, in float32, relative to the reference's mean.
        block: rows per side of a block.
        on_step: called after each block of rows; `steps` gives the number of calls.
    """
    centre = reference.mean(0)
    real, fake = _Points(reference, centre, device, block), _Points(features, centre, device, block)
    precision_radii, density_radii = real.radii((PRECISION_K, DENSITY_K), on_step)
    (recall_radii,) = fake.radii((PRECISION_K,), on_step)
    w = weights.to(device, torch.float32)
    inside = torch.zeros(len(features), dtype=torch.bool, device=device)
    balls = torch.zeros(len(features), dtype=torch.float64, device=device)
    recalled = torch.zeros(len(w), dtype=torch.float64, device=device)
    covered = torch.zeros_like(recalled)
    for i, rows in real.blocks():
        near_a_sample = torch.zeros(len(rows), len(w), device=device)
        holds_a_sample = torch.zeros_like(near_a_sample)
        for j, columns in fake.blocks():
            squared = _squared_distances(rows, columns)
            inside[j] |= (squared <= precision_radii[i, None]).any(0)
            within = squared < density_radii[i, None]
            balls[j] += within.sum(0)
            # A product counts the images of each resample, because a resample is a row of counts.
            holds_a_sample += within.float() @ w[:, j].T
            near_a_sample += (squared <= recall_radii[None, j]).float() @ w[:, j].T
        recalled += (near_a_sample > 0).sum(0)
        covered += (holds_a_sample > 0).sum(0)
        on_step()
    w = w.double()
    drawn = w.sum(1)
    return Overlap(
        precision=(w @ inside.double() / drawn).cpu(),
        recall=(recalled / len(reference)).cpu(),
        density=(w @ balls / (DENSITY_K * drawn)).cpu(),
        coverage=(covered / len(reference)).cpu(),
    )


def steps(samples: int, reference: int, block: int = _BLOCK) -> int:
    """The number of steps that `overlap` reports."""
    return 2 * -(-reference // block) + -(-samples // block)


class _Points:
    """Rows [N, D] that are copied to the device in blocks."""

    def __init__(self, rows: Tensor, centre: Tensor, device: str, block: int):
        self._rows, self._centre, self._device = rows, centre.to(device), device
        self._slices = [slice(i, min(i + block, len(rows))) for i in range(0, len(rows), block)]

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        for part in self._slices:
            yield part, self._rows[part].to(self._device) - self._centre

    def radii(self, ks: tuple[int, ...], on_step: Callable[[], None]) -> list[Tensor]:
        """Squared distance [N] of each row to its k-th nearest other one, for each k."""
        most = max(ks) + 1  # a row is nearest to itself
        found = torch.empty(len(self._rows), most, device=self._device)
        for i, rows in self.blocks():
            nearest = torch.empty(len(rows), 0, device=self._device)
            for _, columns in self.blocks():
                squared = _squared_distances(rows, columns)
                both = torch.cat([nearest, squared], 1)
                nearest = both.topk(min(most, both.shape[1]), largest=False).values
            found[i] = nearest
            on_step()
        return [found[:, k].contiguous() for k in ks]


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """[n, D], [m, D] -> [n, m]."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None]
    return squares.addmm_(a, b.T, alpha=-2).clamp_min_(0)
