"""Batches of two sizes: each half has a forward pass of its own, with BatchNorm's statistics of its own half."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from train_cases import configuration

from jboost.trainer.adversarial import AdversarialConfig, AttackedBatch, objective
from jboost.trainer.joint import JointModel
from jboost.trainer.learner import Learner
from jboost.trainer.losses import LossWeights
from jboost.trainer.machine import make_accelerator
from jboost.trainer.start import initial_model


def make_model() -> JointModel:
    return initial_model(arch="small_resnet4", num_classes=4, in_channels=1, normalize="0.5/0.5", seed=0)[0].train()


def images(count: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 1, size, size, generator=rng), torch.randint(4, (count,), generator=rng)


def loss_of(real: torch.Tensor, generated: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> list[torch.Tensor]:
    """The four terms of eq. 10 from the halves' logits and labels."""
    binary, cross = nn.functional.binary_cross_entropy_with_logits, nn.functional.cross_entropy
    score_real, score_generated = real.gather(1, a[:, None]), generated.gather(1, b[:, None])
    return [
        binary(score_real, torch.ones_like(score_real)),
        binary(score_generated, torch.zeros_like(score_generated)),
        cross(real, a),
        cross(generated, b),
    ]


@pytest.mark.parametrize("size", [4, 8])
def test_each_size_has_a_pass_with_its_own_statistics(tmp_path: Path, size: int) -> None:
    """A step without attacks, against torch by hand: weights and running statistics. With one size it is one pass."""
    config = configuration(
        arch="small_resnet4",
        generated_size="own",
        real_steps=0,
        generated_steps=0,
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=0.1,
        schedule="constant",
        warmup=0,
        clip=0.0,
        ema=0.0,
    )
    ours, theirs = make_model(), make_model()
    real, generated = images(8, 8, 1), images(8, size, 2)
    Learner(ours, config, make_accelerator(config, tmp_path)).step(0, iter([real]), iter([generated]))
    if size == 8:
        halves = theirs(torch.cat([real[0], generated[0]])).split(8)
    else:
        halves = theirs(real[0]), theirs(generated[0])
    sum(loss_of(*halves, real[1], generated[1])).backward()
    torch.optim.SGD(theirs.parameters(), lr=0.1).step()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-4, atol=1e-5, msg=name)
    assert int(ours.network.bn1.num_batches_tracked) == (1 if size == 8 else 2)


def test_the_objective_of_two_sizes_keeps_halves_and_labels_apart() -> None:
    """With frozen statistics each image's logits are its own, so the loss is that of the halves one by one."""
    model = make_model().eval()
    real, generated = images(3, 8, 1), images(3, 6, 2)
    batch = AttackedBatch(real, generated, real[0] / 2, generated[0] / 2, torch.zeros(3))
    config = AdversarialConfig(clean_weights=LossWeights(0.5, 0.25, 2.0, 1.0))
    calls = []

    def forward(*sizes: torch.Tensor) -> torch.Tensor:
        calls.append([tuple(x.shape) for x in sizes])
        return torch.cat([model(x) for x in sizes])

    def terms(scale: float) -> list[torch.Tensor]:
        return loss_of(model(real[0] * scale), model(generated[0] * scale), real[1], generated[1])

    expected = sum(terms(0.5)) + sum(w * t for w, t in zip((0.5, 0.25, 2.0, 1.0), terms(1.0), strict=True))
    torch.testing.assert_close(objective(forward, batch, config)[0], expected)
    assert calls == [[(6, 1, 8, 8), (6, 1, 6, 6)]]
