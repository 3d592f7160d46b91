"""One step of adversarial training: attack both halves of a batch, then compute the loss of equations 7 to 10."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import nn

from jboost.engine.method.objectives import class_logit, realness
from jboost.engine.method.updates import PGD

from .attack import Rater, attack_generated, attack_real, label_score
from .losses import NONE, SCORES, JointLoss, LossWeights, Score, joint_loss

#: Images float32 [B, C, H, W] in [0, 1] and labels int64 [B].
Labelled = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class AdversarialConfig:
    """The attacks and the loss. The defaults follow section 4.1 of the paper; other values serve its successors.

    Attributes:
        real_attack: the attack on real images, away from "real".
        generated_attack: the attack on generated images, towards "real"; ``steps`` applies to the first iteration.
        real_start: radius of the ball around each real image in which its attack starts at random; 0: at the image.
        grow_every: iterations after which the generated attack gains one more step.
        grow_auc: grow by AUC instead, see `jboost.trainer.growth`: once the AUC of real against attacked generated images
            reaches this value, in (0, 1]; None: grow with the iterations.
        grow_images: number of real images over which this AUC is averaged, in whole batches.
        max_steps: the largest number of steps of the generated attack; None: no limit.
        stop_at_pair: whether a generated image stops once it is rated above its attacked real image.
        score: the discriminator's score in the loss, a key of `jboost.trainer.losses.SCORES`.
        attack_score: the score that the attacks move, and that growth by AUC measures; None: `score`.
        real_attack_loss: the loss that the attack on real images raises: ``"bce"``, or ``"ce"`` as in plain
            adversarial training.
        weights: weights of the loss terms on attacked images.
        clean_weights: weights of the same terms on images that are not attacked.
        label_smoothing: label smoothing of the cross-entropies, in [0, 1).
    """

    real_attack: PGD = field(default_factory=lambda: PGD(steps=4, step_size=0.25, eps=1.0))
    generated_attack: PGD = field(default_factory=lambda: PGD(steps=1, step_size=0.1, eps=10.0))
    real_start: float = 0.0
    grow_every: int = 1000
    grow_auc: float | None = None
    grow_images: int = 1000
    max_steps: int | None = None
    stop_at_pair: bool = True
    score: str = "logit"
    attack_score: str | None = None
    real_attack_loss: str = "bce"
    weights: LossWeights = field(default_factory=LossWeights)
    clean_weights: LossWeights = NONE
    label_smoothing: float = 0.0

    def attack_at(self, iteration: int) -> PGD:
        """Generated attack at `iteration` (from 0): one more step every ``grow_every`` iterations (section 3.1.2)."""
        steps = self.generated_attack.steps + iteration // self.grow_every
        return replace(self.generated_attack, steps=steps if self.max_steps is None else min(steps, self.max_steps))

    def validation_steps(self, iterations: int) -> int:
        """Steps of the generated attack in validation, the same throughout a run of `iterations`.

        They are those of the last iteration. Growth by AUC does not know these, so there they are `max_steps`.
        """
        if self.grow_auc is not None and self.max_steps is not None:
            return self.max_steps
        return self.attack_at(iterations - 1).steps


class Raters(NamedTuple):
    """The model's ratings that the attacks move.

    Attributes:
        discriminator: rates how real an image is, by the attacks' score; the attack on generated images raises it.
        real: the attack on real images lowers this rating.
    """

    discriminator: Rater
    real: Rater


def make_raters(config: AdversarialConfig, rater: Callable[[Score], Rater]) -> Raters:
    """Make the raters for the attacks of `config`; ``rater(score)`` makes one of them."""
    discriminator = rater(SCORES[config.attack_score or config.score])
    return Raters(discriminator, rater(label_score) if config.real_attack_loss == "ce" else discriminator)


class AttackedBatch(NamedTuple):
    """A batch before and after the attacks; image i of one half is paired with image i of the other.

    Attributes:
        real, generated: the images before the attacks, with their labels.
        real_adv, generated_adv: the attacked images, float32 [B, C, H, W] in [0, 1].
        taken: int64 [B], the number of steps that each generated image took.
    """

    real: Labelled
    generated: Labelled
    real_adv: torch.Tensor
    generated_adv: torch.Tensor
    taken: torch.Tensor


@dataclass(frozen=True)
class StepReport:
    """The figures of one step, measured before the step moves the weights.

    Attributes:
        loss: the loss that training minimises; with the default weights, the total of eq. 10.
        bce_real, bce_generated, ce_real, ce_generated: its terms on attacked images.
        robust_accuracy: share of attacked real images that the model still classifies correctly, in [0, 1].
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
        """Make a report from the values that `objective` returned: float [9], in the order of the attributes."""
        return cls(*values.tolist())


def attack(
    raters: Raters,
    real: Labelled,
    generated: Labelled,
    config: AdversarialConfig,
    steps: int,
    start: torch.Tensor | None = None,
) -> AttackedBatch:
    """Run both attacks on a batch.

    Args:
        raters: from `make_raters`.
        real: images and labels.
        generated: as many images and labels; if the configuration says so, image i stops once its rating exceeds that
            of attacked real image i.
        config: the attacks' step sizes and radii, and the number of steps on real images.
        steps: the largest number of steps on generated images.
        start: the displacement of each real image at the start of its attack, see `jboost.trainer.random_start`; None:
            none.
    """
    real_adv = attack_real(raters.real, *real, config.real_attack, start)
    if config.stop_at_pair:
        target = raters.discriminator(real_adv, real[1])
    else:
        target = torch.full((len(real_adv),), torch.inf, device=real_adv.device)
    update = replace(config.generated_attack, steps=steps)
    generated_adv, taken = attack_generated(raters.discriminator, *generated, update, target)
    return AttackedBatch(real, generated, real_adv, generated_adv, taken)


def growth_scores(raters: Raters, batch: AttackedBatch) -> torch.Tensor:
    """What growth by AUC compares: the attacks' score of the real images as they are, and of the attacked generated ones.

    Returns:
        float32 [2, B], without a gradient: real first.
    """
    return torch.stack(
        [raters.discriminator(*batch.real), raters.discriminator(batch.generated_adv, batch.generated[1])]
    )


def objective(
    forward: Callable[..., torch.Tensor], batch: AttackedBatch, config: AdversarialConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the loss and the figures to report.

    Args:
        forward: the model in training mode: images -> logits; if the halves differ in size, it takes one tensor for each
            size and returns their logits in order.
        batch: from `attack`.
        config: score, weights and label smoothing.

    Returns:
        The loss, a scalar with a gradient, and the values of a `StepReport`, float32 [9] without a gradient.
    """
    (real, real_labels), (generated, generated_labels) = batch.real, batch.generated
    images, sizes = [batch.real_adv, batch.generated_adv], [len(real), len(generated)]
    if config.clean_weights.any:
        images, sizes = [*images, real, generated], sizes * 2
    # One forward pass for all images of one size: BatchNorm then normalises by the mixture that its running statistics
    # describe. Images of two sizes need two.
    logits = torch.split(_logits(forward, images).float(), sizes)

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


def _logits(forward: Callable[..., torch.Tensor], images: list[torch.Tensor]) -> torch.Tensor:
    """The logits of several batches, in order. `forward` gets one tensor for each image size."""
    groups: dict[torch.Size, list[int]] = {}
    for i, batch in enumerate(images):
        groups.setdefault(batch.shape[1:], []).append(i)
    logits = forward(*(torch.cat([images[i] for i in group]) for group in groups.values()))
    order = [i for group in groups.values() for i in group]
    if len(groups) == 1:
        return logits
    parts = torch.split(logits, [len(images[i]) for i in order])
    return torch.cat([parts[order.index(i)] for i in range(len(images))])


def mean_realness(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int = 256) -> float:
    """l0 (eq. 13): the mean softplus(f_c) of real images, float32 [N, C, H, W] in [0, 1], with labels int64 [N]."""
    rater = Rater(model)
    parts = [slice(i, i + batch_size) for i in range(0, len(images), batch_size)]
    ratings = [rater(images[part], labels[part]) for part in parts]
    return float(nn.functional.softplus(torch.cat(ratings).double()).mean())
