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
    half: bool = False,
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
        half: use the float16 distances of OpenAI's evaluator; see `_half_distances`.
        on_step: called after each block of rows; `steps` gives the number of calls.
    """
    half = half and fits_half(features) and fits_half(reference)
    distances = _half_distances if half else _squared_distances
    centre = torch.zeros_like(reference[0]) if half else reference.mean(0)
    real, fake = (_Points(rows, centre, device, block, distances) for rows in (reference, features))
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
            squared = distances(rows, columns)
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

    def __init__(
        self, rows: Tensor, centre: Tensor, device: str, block: int, distances: Callable[[Tensor, Tensor], Tensor]
    ):
        self._rows, self._centre, self._device = rows, centre.to(device), device
        self._distances = distances
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
                squared = self._distances(rows, columns)
                both = torch.cat([nearest, squared], 1)
                nearest = both.topk(min(most, both.shape[1]), largest=False).values
            found[i] = nearest
            on_step()
        return [found[:, k].contiguous() for k in ks]


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """[n, D], [m, D] -> [n, m]."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None]
    return squares.addmm_(a, b.T, alpha=-2).clamp_min_(0)


def fits_half(rows: Tensor) -> bool:
    """Whether no float16 distance to `rows` [N, D] can overflow; Inception's features are far from it."""
    return 4 * float((rows**2).sum(1).max()) <= torch.finfo(torch.float16).max


def _half_distances(a: Tensor, b: Tensor) -> Tensor:
    """[n, D], [m, D] -> [n, m], rounded as in OpenAI's evaluator, which computes them in float16 on a GPU.

    Features, squares, norms, products and both sums are rounded to float16; sums over D are kept in float32 until then. The
    distances of Inception's features are multiples of 1/4, so more images lie on a ball's edge and count as inside: precision
    and recall rise by about 1%. The evaluator falls back on float32 for blocks that overflow; here `fits_half` decides for all.
    """
    a, b = _rounded(a), _rounded(b)
    of_a, of_b = (_rounded(_rounded(x**2).sum(1)) for x in (a, b))
    between = _rounded(a @ b.T)
    return _rounded(_rounded(of_a[:, None] - 2 * between) + of_b[None]).clamp_min_(0)


def _rounded(x: Tensor) -> Tensor:
    return x.half().float()
