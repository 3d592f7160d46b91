"""Adversarial training of the joint model: attack both halves of a batch, then descend on equations 7 to 10.

Images are tensors in memory, float32 [N, C, H, W] in [0, 1], with labels int64 [N].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from jboost.engine.updates import PGD

from .attack import attack_generated, attack_real, evaluating, rate
from .losses import JointLoss, joint_loss


@dataclass(frozen=True)
class AdversarialConfig:
    """How to train. The attacks default to section 4.1 of the paper.

    Attributes:
        iterations: number of optimizer steps.
        batch_size: real images a step, and as many generated ones.
        learning_rate: the peak of a cosine schedule that warms up over the first twentieth.
        weight_decay: AdamW's.
        real_attack: the attack on real images, away from "real".
        generated_attack: the attack on generated images, towards "real"; its ``steps`` are those of the first iteration.
        grow_every: iterations after which the generated attack gains one more step.
        seed: fixes the order of the images. The model's initialisation is the caller's.
    """

    iterations: int = 600
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    real_attack: PGD = field(default_factory=lambda: PGD(steps=4, step_size=0.25, eps=1.0))
    generated_attack: PGD = field(default_factory=lambda: PGD(steps=4, step_size=0.1, eps=10.0))
    grow_every: int = 1000
    seed: int = 0

    def attack_at(self, iteration: int) -> PGD:
        """The generated attack at `iteration` (from 0): one more step every ``grow_every`` iterations (section 3.1.2)."""
        return replace(self.generated_attack, steps=self.generated_attack.steps + iteration // self.grow_every)

    def learning_rate_at(self, iteration: int) -> float:
        """Linear warm-up over the first twentieth, then half a cosine down to zero."""
        warmup = max(1, self.iterations // 20)
        progress = max(0, iteration - warmup) / max(1, self.iterations - warmup)
        return self.learning_rate * min(1.0, (iteration + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class StepReport:
    """What one step saw, before it moved the weights.

    Attributes:
        loss: the total of eq. 10.
        bce_real, bce_generated, ce_real, ce_generated: its terms.
        robust_accuracy: share of attacked real images that are still classified correctly, in [0, 1].
        attack_steps: mean number of steps that the generated images took.
    """

    loss: float
    bce_real: float
    bce_generated: float
    ce_real: float
    ce_generated: float
    robust_accuracy: float
    attack_steps: float


def _report(loss: JointLoss, real_logits: torch.Tensor, real_labels: torch.Tensor, taken: torch.Tensor) -> StepReport:
    return StepReport(
        loss=float(loss.total.detach()),
        bce_real=float(loss.bce_real.detach()),
        bce_generated=float(loss.bce_generated.detach()),
        ce_real=float(loss.ce_real.detach()),
        ce_generated=float(loss.ce_generated.detach()),
        robust_accuracy=float((real_logits.argmax(1) == real_labels).float().mean()),
        attack_steps=float(taken.float().mean()),
    )


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    real: tuple[torch.Tensor, torch.Tensor],
    generated: tuple[torch.Tensor, torch.Tensor],
    *,
    real_attack: PGD,
    generated_attack: PGD,
) -> StepReport:
    """One optimizer step on attacked images only (eq. 7-10).

    Args:
        model: x -> logits; its training mode is used for the loss, eval mode for the attacks.
        optimizer: moves the model's parameters.
        real: images float32 [B, C, H, W] in [0, 1] and labels int64 [B].
        generated: the same, as many; image i is paired with real image i.
        real_attack: how far and how often the real images move.
        generated_attack: the same for the generated ones, at most.
    """
    (real_images, real_labels), (generated_images, generated_labels) = real, generated
    real_adv = attack_real(model, real_images, real_labels, real_attack)
    target = rate(model, real_adv, real_labels)
    generated_adv, taken = attack_generated(model, generated_images, generated_labels, generated_attack, target)

    # One forward for both halves: batch norm sees the mixture that its running statistics will stand for.
    logits = model(torch.cat([real_adv, generated_adv]))
    real_logits, generated_logits = logits.split([len(real_adv), len(generated_adv)])
    loss = joint_loss(real_logits, real_labels, generated_logits, generated_labels)
    optimizer.zero_grad(set_to_none=True)
    loss.total.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return _report(loss, real_logits, real_labels, taken)


def _batches(
    images: torch.Tensor, labels: torch.Tensor, size: int, rng: torch.Generator
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Shuffled batches of `size` without end; every image is seen once before any is seen again."""
    pending = torch.empty(0, dtype=torch.int64)
    while True:
        while len(pending) < size:
            pending = torch.cat([pending, torch.randperm(len(images), generator=rng)])
        chosen, pending = pending[:size], pending[size:]
        yield images[chosen], labels[chosen]


def train(
    model: nn.Module,
    real: tuple[torch.Tensor, torch.Tensor],
    generated: tuple[torch.Tensor, torch.Tensor],
    config: AdversarialConfig,
    on_step: Callable[[int, StepReport], None] | None = None,
) -> None:
    """Train `model` in place. The same model, images and config give the same weights on the same machine.

    Args:
        model: x float32 [B, C, H, W] in [0, 1] -> logits [B, C].
        real: real images float32 [N, C, H, W] and labels int64 [N].
        generated: generated images float32 [M, C, H, W] and labels int64 [M].
        config: what to do.
        on_step: called after each step with its number (from 0) and what it saw.
    """
    rng = torch.Generator().manual_seed(config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    real_batches = _batches(*real, config.batch_size, rng)
    generated_batches = _batches(*generated, config.batch_size, rng)
    model.train()
    for iteration in range(config.iterations):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate_at(iteration)
        report = training_step(
            model,
            optimizer,
            next(real_batches),
            next(generated_batches),
            real_attack=config.real_attack,
            generated_attack=config.attack_at(iteration),
        )
        if on_step is not None:
            on_step(iteration, report)
    model.eval()


def mean_realness(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int = 256) -> float:
    """l0 (eq. 13): the mean over real images of softplus(f_c). Images float32 [N, C, H, W] in [0, 1], labels int64 [N]."""
    with evaluating(model):
        parts = [slice(i, i + batch_size) for i in range(0, len(images), batch_size)]
        ratings = [rate(model, images[part], labels[part]) for part in parts]
    return float(nn.functional.softplus(torch.cat(ratings).double()).mean())
