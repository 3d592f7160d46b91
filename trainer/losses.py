"""What the joint model is trained on: equations 7 to 10, from the logits of attacked images.

Golan, Ganz, Elad, NeurIPS 2024 (arXiv 2405.16260), section 3.1. The class logit f_c plays two parts: among the other logits it
classifies, and sigmoid(f_c) is the probability that the image is a real one of class c. So there are two losses, a binary
cross-entropy on f_c alone (real images up, generated ones down) and a cross-entropy on all logits (real and generated alike),
and their sum is the objective. Each is taken on attacked images only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from jboost.engine.objectives import class_logit, cross_entropy, realness, softplus


@dataclass(frozen=True)
class JointLoss:
    """The terms of eq. 10, each a scalar: the mean over its half of the batch.

    Attributes:
        bce_real: -log sigmoid(f_c) of attacked real images, in [0, inf).
        bce_generated: -log(1 - sigmoid(f_c)) of attacked generated images (eq. 8), in [0, inf).
        ce_real: -log softmax(f)_c of attacked real images, in [0, inf).
        ce_generated: -log softmax(f)_c of attacked generated images, in [0, inf).
    """

    bce_real: torch.Tensor
    bce_generated: torch.Tensor
    ce_real: torch.Tensor
    ce_generated: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        """The sum of the four, which training minimises (eq. 10)."""
        return self.bce_real + self.bce_generated + self.ce_real + self.ce_generated


def bce_real(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(f_c) = softplus(-f_c) per image: what calling a real image generated costs. [B, C], int64 [B] -> [B]."""
    loss: torch.Tensor = softplus(-class_logit(logits, labels))
    return loss


def bce_generated(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-log(1 - sigmoid(f_c)) = softplus(f_c) per image (eq. 8): what calling a generated image real costs; its realness."""
    loss: torch.Tensor = realness(class_logit(logits, labels))
    return loss


def joint_loss(
    real_logits: torch.Tensor, real_labels: torch.Tensor, generated_logits: torch.Tensor, generated_labels: torch.Tensor
) -> JointLoss:
    """Equations 7 to 10 from the logits of attacked images.

    Args:
        real_logits: float [R, C], of attacked real images.
        real_labels: int64 [R], in [0, C).
        generated_logits: float [G, C], of attacked generated images.
        generated_labels: int64 [G], in [0, C): the class that each was generated as.

    Returns:
        The four terms, each averaged over its own images, so that R and G may differ.
    """
    return JointLoss(
        bce_real=bce_real(real_logits, real_labels).mean(),
        bce_generated=bce_generated(generated_logits, generated_labels).mean(),
        ce_real=cross_entropy(real_logits, real_labels).mean(),
        ce_generated=cross_entropy(generated_logits, generated_labels).mean(),
    )
