"""One step of adversarial training: attack both halves of a batch, then the loss of equations 7 to 10 on what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import nn

from jboost.engine.method.objectives import class_logit, realness
from jboost.engine.method.updates import PGD

from .attack import Forward, Rater, attack_generated, attack_real, label_score
from .losses import NONE, SCORES, JointLoss, LossWeights, Score, joint_loss

#: Images float32 [B, C, H, W] in [0, 1] and labels int64 [B].
Labelled = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class AdversarialConfig:
    """How images are attacked and what is minimised. The defaults are section 4.1 of the paper; the rest is for its successors.

    Attributes:
        real_attack: the attack on real images, away from "real".
        generated_attack: the attack on generated images, towards "real"; its ``steps`` are those of the first iteration.
        grow_every: iterations after which the generated attack gains one more step.
        score: what the discriminator reads off the logits, a key of `jboost.trainer.losses.SCORES`.
        real_attack_loss: what the attack on real images raises: ``"bce"``, or ``"ce"`` as in plain adversarial training.
        weights: of the terms on attacked images.
        clean_weights: of the same terms on the images as they are.
        label_smoothing: of the cross-entropies, in [0, 1).
    """

    real_attack: PGD = field(default_factory=lambda: PGD(steps=4, step_size=0.25, eps=1.0))
    generated_attack: PGD = field(default_factory=lambda: PGD(steps=1, step_size=0.1, eps=10.0))
    grow_every: int = 1000
    score: str = "logit"
    real_attack_loss: str = "bce"
    weights: LossWeights = field(default_factory=LossWeights)
    clean_weights: LossWeights = NONE
    label_smoothing: float = 0.0

    def attack_at(self, iteration: int) -> PGD:
        """The generated attack at `iteration` (from 0): one more step every ``grow_every`` iterations (section 3.1.2)."""
        return replace(self.generated_attack, steps=self.generated_attack.steps + iteration // self.grow_every)


class Raters(NamedTuple):
    """The model as each attack sees it.

    Attributes:
        discriminator: rates how real an image is; the generated attack raises it.
        real: what the attack on real images lowers.
    """

    discriminator: Rater
    real: Rater


def make_raters(config: AdversarialConfig, rater: Callable[[Score], Rater]) -> Raters:
    """The model as the attacks of `config` see it; `rater` makes one that reads a score."""
    discriminator = rater(SCORES[config.score])
    return Raters(discriminator, rater(label_score) if config.real_attack_loss == "ce" else discriminator)


class AttackedBatch(NamedTuple):
    """A batch and what the attacks made of it; image i of one half is paired with image i of the other.

    Attributes:
        real, generated: as they are, with their labels.
        real_adv, generated_adv: attacked, float32 [B, C, H, W] in [0, 1].
        taken: int64 [B], the steps that each generated image took.
    """

    real: Labelled
    generated: Labelled
    real_adv: torch.Tensor
    generated_adv: torch.Tensor
    taken: torch.Tensor


@dataclass(frozen=True)
class StepReport:
    """What one step saw, before it moved the weights.

    Attributes:
        loss: what is minimised; with the default weights the total of eq. 10.
        bce_real, bce_generated, ce_real, ce_generated: its terms on attacked images.
        robust_accuracy: share of attacked real images that are still classified correctly, in [0, 1].
        realness_real, realness_generated: mean softplus(f_c) of the attacked images of each half.
        attack_steps: mean number of steps that the generated images took.
    """

    loss: float
    bce_real: float
    bce_generated: float
    ce_real: float
    ce_generated: float
    robust_accuracy: float
    realness_real: float
    realness_generated: float
    attack_steps: float

    @classmethod
    def from_tensor(cls, values: torch.Tensor) -> StepReport:
        """Read what `objective` measured: float [9], in the order of the attributes."""
        return cls(*values.tolist())


def attack(
    raters: Raters, real: Labelled, generated: Labelled, config: AdversarialConfig, iteration: int
) -> AttackedBatch:
    """Both attacks on a batch.

    Args:
        raters: the model.
        real: images and labels.
        generated: as many; image i is paired with real image i, whose rating after the attack is where it stops.
        config: how far and how often the images move.
        iteration: from 0; the generated attack grows with it.
    """
    real_adv = attack_real(raters.real, *real, config.real_attack)
    target = raters.discriminator(real_adv, real[1])
    generated_adv, taken = attack_generated(raters.discriminator, *generated, config.attack_at(iteration), target)
    return AttackedBatch(real, generated, real_adv, generated_adv, taken)


def objective(forward: Forward, batch: AttackedBatch, config: AdversarialConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """What is minimised, and what there is to report.

    Args:
        forward: the model in training mode.
        batch: from `attack`.
        config: scores, weights, smoothing.

    Returns:
        The loss, a scalar with a gradient; and the values of a `StepReport`, float32 [9], without.
    """
    (real, real_labels), (generated, generated_labels) = batch.real, batch.generated
    images, sizes = [batch.real_adv, batch.generated_adv], [len(real), len(generated)]
    if config.clean_weights.any:
        images, sizes = [*images, real, generated], sizes * 2
    # One forward for all: batch norm sees the mixture that its running statistics will stand for.
    logits = torch.split(forward(torch.cat(images)).float(), sizes)

    def terms(real_logits: torch.Tensor, generated_logits: torch.Tensor) -> JointLoss:
        return joint_loss(
            real_logits,
            real_labels,
            generated_logits,
            generated_labels,
            score=config.score,
            label_smoothing=config.label_smoothing,
        )

    attacked = terms(logits[0], logits[1])
    loss = attacked.weighted(config.weights)
    if config.clean_weights.any:
        loss = loss + terms(logits[2], logits[3]).weighted(config.clean_weights)
    with torch.no_grad():
        report = torch.stack(
            [
                loss,
                attacked.bce_real,
                attacked.bce_generated,
                attacked.ce_real,
                attacked.ce_generated,
                (logits[0].argmax(1) == real_labels).float().mean(),
                realness(class_logit(logits[0], real_labels)).mean(),
                realness(class_logit(logits[1], generated_labels)).mean(),
                batch.taken.float().mean(),
            ]
        )
    return loss, report


def mean_realness(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int = 256) -> float:
    """l0 (eq. 13): the mean over real images of softplus(f_c). Images float32 [N, C, H, W] in [0, 1], labels int64 [N]."""
    rater = Rater(model)
    parts = [slice(i, i + batch_size) for i in range(0, len(images), batch_size)]
    ratings = [rater(images[part], labels[part]) for part in parts]
    return float(nn.functional.softplus(torch.cat(ratings).double()).mean())
