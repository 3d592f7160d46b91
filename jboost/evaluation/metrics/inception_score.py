"""The Inception Score: how sure a classifier is of each image, and how evenly the set covers its classes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SPLITS = 10
# As in torch-fidelity: sets that are sorted by class must be shuffled before they are split.
_SHUFFLE_SEED = 2020


def inception_scores(logits: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """The Inception Score of a set, and of resamples of its rows.

    The score is exp(mean KL(p(y|x) || p(y))), averaged over `SPLITS` parts of the set: Salimans et al. 2016 (arXiv
    1606.03498).

    Args:
        logits: float32 [N, C].
        weights: [1 + R, N]; the first row is all ones, each other row counts how often a resample has each image.

    Returns:
        float64 [1 + R], and the customary standard deviation between the parts.
    """
    n = len(logits)
    splits = min(SPLITS, n)
    order = torch.from_numpy(np.random.RandomState(_SHUFFLE_SEED).permutation(n))
    scores = []
    for i in range(splits):
        part = order[i * n // splits : (i + 1) * n // splits]
        log_p = logits[part].double().log_softmax(1)
        p = log_p.exp()
        w = weights[:, part].double()
        w = w / w.sum(1, keepdim=True)
        # mean KL = entropy of the mean - mean entropy
        marginal = w @ p
        scores.append((w @ (p * log_p).sum(1) - torch.xlogy(marginal, marginal).sum(1)).exp())
    values = torch.stack(scores)
    return values.mean(0), float(values[:, 0].std(correction=0))
