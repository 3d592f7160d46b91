"""The losses of the joint model: equations 7 to 10 on the logits of attacked images, and additions of its successors.

Golan, Ganz, Elad, NeurIPS 2024 (arXiv 2405.16260), section 3.1. The class logit f_c has two roles. Among the other
logits it classifies, and sigmoid(f_c) is the probability that the image is a real one of class c. So there are two
losses: a binary cross-entropy on f_c alone (real images up, generated ones down), and a cross-entropy on all logits
(real and generated alike). The objective is their sum, taken on attacked images only.

Dual adversarial training (arXiv 2510.13872) discriminates by logsumexp(f), the negative energy of the image under every
class, where the paper above uses f_c. Here this is the score ``"energy"``. Its attacks climb f_c all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from jboost.engine.method.objectives import class_logit, cross_entropy, logsumexp, realness, softplus

#: (logits [B, C], labels int64 [B]) -> one number per image, [B].
Score = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _energy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    score: torch.Tensor = logsumexp(logits)
    return score


#: The discriminator's scores; the sigmoid of a score is the probability that the image is real.
SCORES: dict[str, Score] = {"logit": class_logit, "energy": _energy}


@dataclass(frozen=True)
class LossWeights:
    """Factors of the four terms of eq. 10, each at least 0."""

    bce_real: float = 1.0
    bce_generated: float = 1.0
    ce_real: float = 1.0
    ce_generated: float = 1.0

    @property
    def any(self) -> bool:
        """Whether any weight is above 0."""
        return max(self.bce_real, self.bce_generated, self.ce_real, self.ce_generated) > 0.0


#: All weights are 0: no term counts.
NONE = LossWeights(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class JointLoss:
    """The terms of eq. 10, each a scalar: the mean over its half of the batch.

    Attributes:
        bce_real: -log sigmoid(f_c) of real images, in [0, inf).
        bce_generated: -log(1 - sigmoid(f_c)) of generated images (eq. 8), in [0, inf).
        ce_real: -log softmax(f)_c of real images, in [0, inf).
        ce_generated: -log softmax(f)_c of generated images, in [0, inf).
    """

    bce_real: torch.Tensor
    bce_generated: torch.Tensor
    ce_real: torch.Tensor
    ce_generated: torch.Tensor

    def weighted(self, weights: LossWeights) -> torch.Tensor:
        """The weighted sum of the terms."""
        return (
            weights.bce_real * self.bce_real
            + weights.bce_generated * self.bce_generated
            + weights.ce_real * self.ce_real
            + weights.ce_generated * self.ce_generated
        )

    @property
    def total(self) -> torch.Tensor:
        """The sum of the four terms (eq. 10)."""
        return self.weighted(LossWeights())


def bce_real(score: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(score) = softplus(-score): the loss of real images. [B] -> [B]."""
    loss: torch.Tensor = softplus(-score)
    return loss


def bce_generated(score: torch.Tensor) -> torch.Tensor:
    """-log(1 - sigmoid(score)) = softplus(score) (eq. 8): the loss of generated images, their realness. [B] -> [B]."""
    loss: torch.Tensor = realness(score)
    return loss


def smoothed_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross-entropy against the target (1 - s) onehot(c) + s / C (Szegedy et al. 2015, arXiv 1512.00567).

    Args:
        logits: [B, C].
        labels: int64 [B].
        smoothing: s, in [0, 1).

    Returns:
        One number per image, [B].
    """
    exact: torch.Tensor = cross_entropy(logits, labels)
    uniform: torch.Tensor = logsumexp(logits) - logits.mean(1)
    return (1.0 - smoothing) * exact + smoothing * uniform if smoothing else exact


def joint_loss(
    real_logits: torch.Tensor,
    real_labels: torch.Tensor,
    generated_logits: torch.Tensor,
    generated_labels: torch.Tensor,
    *,
    score: str = "logit",
    label_smoothing: float = 0.0,
) -> JointLoss:
    """Compute equations 7 to 10 from the logits.

    Args:
        real_logits: float [R, C], logits of real images.
        real_labels: int64 [R], in [0, C).
        generated_logits: float [G, C], logits of generated images.
        generated_labels: int64 [G], in [0, C): the class that each image was generated as.
        score: the discriminator's score, a key of `SCORES`.
        label_smoothing: label smoothing of the cross-entropies, in [0, 1).

    Returns:
        The four terms, each averaged over its own images, so that R and G may differ.
    """
    rate = SCORES[score]
    return JointLoss(
        bce_real=bce_real(rate(real_logits, real_labels)).mean(),
        bce_generated=bce_generated(rate(generated_logits, generated_labels)).mean(),
        ce_real=smoothed_cross_entropy(real_logits, real_labels, label_smoothing).mean(),
        ce_generated=smoothed_cross_entropy(generated_logits, generated_labels, label_smoothing).mean(),
    )
