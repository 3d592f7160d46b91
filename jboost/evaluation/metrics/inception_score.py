"""The Inception Score: how sure a classifier is of each image, and how evenly the set covers its classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SPLITS = 10
# As in torch-fidelity: sets that are sorted by class must be shuffled before they are split.
_SHUFFLE_SEED = 2020


def parts(count: int, size: int | None) -> list[Tensor]:
    """The parts that a set of `count` images is split into: indices, [n] each.

    Args:
        count: number of images, at least 1.
        size: images in a part, in the order of the set; the last part has what is left, as in OpenAI's evaluator. None:
            `SPLITS` parts of the shuffled set, as in torch-fidelity.
    """
    if size is not None:
        return [torch.arange(start, min(start + size, count)) for start in range(0, count, size)]
    splits, order = min(SPLITS, count), _shuffled(count)
    return [order[i * count // splits : (i + 1) * count // splits] for i in range(splits)]


def inception_scores(logits: Tensor, weights: Tensor, size: int | None = None) -> tuple[Tensor, float]:
    """The Inception Score of a set, and of resamples of its rows.

    The score is exp(mean KL(p(y|x) || p(y))), averaged over parts of the set: Salimans et al. 2016 (arXiv 1606.03498). Every
    part counts the same, also a shorter last one.

    Args:
        logits: float32 [N, C].
        weights: [1 + R, N]; the first row is all ones, each other row counts how often a resample has each image.
        size: see `parts`.

    Returns:
        float64 [1 + R], and the customary standard deviation between the parts.
    """
    values = _scores(logits, weights, parts(len(logits), size))
    # A resample may leave a short part empty.
    return values.nanmean(0), float(values[:, 0].std(correction=0))


def scores_of_parts(logits: Tensor, size: int, *, shuffled: bool) -> Tensor:
    """The Inception Scores of parts of `size` images, float64 [parts]; a set that is sorted by class rises when it is shuffled.

    Args:
        logits: float32 [N, C].
        size: see `parts`.
        shuffled: whether to shuffle the set first.
    """
    count = len(logits)
    order = _shuffled(count) if shuffled else torch.arange(count)
    once = torch.ones(1, count, dtype=torch.uint8)
    return _scores(logits, once, [order[part] for part in parts(count, size)])[:, 0]


def _shuffled(count: int) -> Tensor:
    return torch.from_numpy(np.random.RandomState(_SHUFFLE_SEED).permutation(count))


def _scores(logits: Tensor, weights: Tensor, chosen: Sequence[Tensor]) -> Tensor:
    """Float64 [parts, 1 + R]."""
    scores = []
    for part in chosen:
        log_p = logits[part].double().log_softmax(1)
        p = log_p.exp()
        w = weights[:, part].double()
        w = w / w.sum(1, keepdim=True)
        # mean KL = entropy of the mean - mean entropy
        marginal = w @ p
        scores.append((w @ (p * log_p).sum(1) - torch.xlogy(marginal, marginal).sum(1)).exp())
    return torch.stack(scores)
