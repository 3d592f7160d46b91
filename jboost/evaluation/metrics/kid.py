"""The kernel distance KID: an unbiased estimate of the squared maximum mean discrepancy under a polynomial kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

#: As in torch-fidelity and in most papers; a smaller set takes subsets of its own size.
SUBSETS, SUBSET_SIZE = 100, 1000
# torch-fidelity's default. Drawing in its order (samples, then reference) gives the same subsets, hence the same KID.
_SUBSET_SEED = 2020


def kernel_distances(
    features: Tensor, reference: Tensor, weights: Tensor, *, device: str = "cpu", on_step: Callable[[], None]
) -> tuple[Tensor, float]:
    """KID of a set, and of resamples of its rows: the mean over `SUBSETS` subsets of both sets.

    Binkowski et al. 2018 (arXiv 1801.01401), with the kernel (x.y / D + 1)^3. The estimate leaves out an image's pair
    with itself. In a resample it also leaves out pairs of draws of the same image, so that it stays unbiased.

    Args:
        features: float32 [N, D] of the samples, N at least 2.
        reference: float32 [M, D], M at least 2.
        weights: [1 + R, N]; the first row is all ones, each other row counts how often a resample has each image.
        device: device to compute on, in float64.
        on_step: called after each subset.

    Returns:
        float64 [1 + R], and the customary standard deviation between the subsets.
    """
    size = min(SUBSET_SIZE, len(features), len(reference))
    rng = np.random.RandomState(_SUBSET_SEED)
    found = []
    for _ in range(SUBSETS):
        chosen = torch.from_numpy(rng.choice(len(features), size, replace=False))
        others = torch.from_numpy(rng.choice(len(reference), size, replace=False))
        x, y = features[chosen].to(device, torch.float64), reference[others].to(device, torch.float64)
        found.append(_mmd(x, y, weights[:, chosen].to(device, torch.float64)).cpu())
        on_step()
    values = torch.stack(found)
    return values.mean(0), float(values[:, 0].std(correction=0))


def _mmd(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Squared MMD between `x` [n, D], with weights `w` [R, n], and `y` [n, D]: [R]."""
    n = len(y)
    of_x, of_y = _kernel(x, x), _kernel(y, y)
    drawn = w.sum(1)
    own = ((w @ of_x) * w).sum(1) - (w**2) @ of_x.diagonal()
    between = w @ _kernel(x, y).mean(1) / drawn
    other = (of_y.sum() - of_y.trace()) / (n * (n - 1))
    return own / (drawn**2 - (w**2).sum(1)) - 2 * between + other


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3
