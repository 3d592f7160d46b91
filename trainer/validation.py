"""Validation: the model's figures on held-out images, and the effect of boosting on generated ones."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jboost.engine.method.objectives import OBJECTIVES
from jboost.engine.method.updates import PGD
from jboost.engine.samples.resize import resize

from .adversarial import AdversarialConfig, Labelled, attack, make_raters, mean_realness, objective
from .attack import Rater, attack_generated, evaluating
from .random_start import random_start

#: (real images, images) uint8 [N, H, W, C] -> the Fréchet distance between them, in some feature space.
Frechet = Callable[[NDArray[np.uint8], NDArray[np.uint8]], float]


@dataclass(frozen=True)
class Validation:
    """The figures of one pass over the held-out images.

    Attributes:
        loss: the training loss on held-out images. Generated images are attacked as strongly at every validation (see
            `AdversarialConfig.validation_steps`), so the figures of a run can be compared.
        accuracy, robust_accuracy: share of real images that the model classifies correctly, before and after the
            attack, in [0, 1].
        realness_real: mean softplus(f_c) of real images: l0 (eq. 13).
        realness_generated, realness_boosted: mean softplus(f_c) of generated images, before and after boosting.
        frechet_generated, frechet_boosted: Fréchet distances of generated images to the real ones, before and after
            boosting; None without features.
    """

    loss: float
    accuracy: float
    robust_accuracy: float
    realness_real: float
    realness_generated: float
    realness_boosted: float
    frechet_generated: float | None = None
    frechet_boosted: float | None = None

    def better_than(self, best: float | None) -> bool:
        """Whether this is the best of a run: the lowest `merit` so far."""
        return best is None or self.merit < best

    @property
    def merit(self) -> float:
        """The criterion of the best checkpoint, lower is better: the distance after boosting, else the loss."""
        return self.loss if self.frechet_boosted is None else self.frechet_boosted

    def to_dict(self) -> dict[str, float]:
        """The available figures, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Validated:
    """Figures and pictures: `generated` and `boosted` are uint8 [N, H, W, C], with `labels` int64 [N]."""

    figures: Validation
    generated: NDArray[np.uint8]
    boosted: NDArray[np.uint8]
    labels: NDArray[np.int64]


def validate(
    model: nn.Module,
    real: Labelled,
    generated: Labelled,
    *,
    config: AdversarialConfig,
    steps: int,
    boost: PGD,
    aim: str = "joint",
    frechet: Frechet | None = None,
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
    batch_size: int = 64,
) -> Validated:
    """Attack and boost the held-out images.

    Args:
        model: x -> logits; it runs in eval mode.
        real, generated: images and labels on the model's device, N of each.
        config: the attacks and the loss of training.
        steps: largest number of steps of the attack on generated images.
        boost: PGD steps on the objective `aim`.
        aim: a key of `jboost.engine.method.objectives.OBJECTIVES`.
        frechet: the distance to report; None: report no distance.
        autocast: makes the context in which the network runs.
        batch_size: number of images at a time; N need not be a multiple of it.
    """
    rater = partial(Rater, model, autocast=autocast)
    raters = make_raters(config, rater)
    l0 = mean_realness(model, *real, batch_size=batch_size)
    loss_of = OBJECTIVES[aim]
    booster = rater(lambda logits, labels: -loss_of(logits, labels, l0))

    def forward(*sizes: Tensor) -> Tensor:
        with autocast():
            return torch.cat([model(x) for x in sizes])

    sums = torch.zeros(3, dtype=torch.float64)
    boosted = []
    for start in range(0, len(real[1]), batch_size):
        part = slice(start, start + batch_size)
        ours, theirs = (real[0][part], real[1][part]), (generated[0][part], generated[1][part])
        # The same starts at every validation: an image's depends on its row alone.
        rows = torch.arange(start, start + len(ours[1]), device=ours[0].device)
        begin = random_start(ours[0], config.real_start, rows, seed=0) if config.real_start else None
        batch = attack(raters, ours, theirs, config, steps, begin)
        with evaluating(model), torch.no_grad():
            loss, report = objective(forward, batch, config)
            accuracy = (forward(ours[0]).argmax(1) == ours[1]).float().mean()
        sums += torch.stack([loss, accuracy, report[5]]).double().cpu() * len(ours[1])
        boosted.append(attack_generated(booster, *theirs, boost, torch.full_like(theirs[0][:, 0, 0, 0], torch.inf))[0])
    mean_loss, accuracy_, robust = (sums / len(real[1])).tolist()
    after = torch.cat(boosted)
    pixels = {"real": to_pixels(real[0]), "generated": to_pixels(generated[0]), "boosted": to_pixels(after)}
    if real[0].shape != generated[0].shape:  # a distance between sizes would measure the size
        pixels["real"] = np.stack([resize(image, generated[0].shape[-1]) for image in pixels["real"]])
    figures = Validation(
        loss=mean_loss,
        accuracy=accuracy_,
        robust_accuracy=robust,
        realness_real=l0,
        realness_generated=mean_realness(model, *generated, batch_size=batch_size),
        realness_boosted=mean_realness(model, after, generated[1], batch_size=batch_size),
        frechet_generated=None if frechet is None else frechet(pixels["real"], pixels["generated"]),
        frechet_boosted=None if frechet is None else frechet(pixels["real"], pixels["boosted"]),
    )
    return Validated(figures, pixels["generated"], pixels["boosted"], generated[1].cpu().numpy())


def to_pixels(images: Tensor) -> NDArray[np.uint8]:
    """float32 [N, C, H, W] in [0, 1] -> uint8 [N, H, W, C], rounded to nearest."""
    pixels: NDArray[np.uint8] = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
