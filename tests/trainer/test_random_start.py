"""The random start of the attack on real images: uniform in the ball, and keyed by the image's position alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from train_cases import configuration, real_images

from jboost.engine.method.updates import PGD
from jboost.trainer import learner as learning
from jboost.trainer.architectures import build_network
from jboost.trainer.attack import Rater, attack_real
from jboost.trainer.data import BatchReader, EpochOrder
from jboost.trainer.joint import JointModel
from jboost.trainer.machine import make_accelerator
from jboost.trainer.random_start import random_start


def test_a_start_is_uniform_in_the_ball() -> None:
    """In three dimensions, where the shares of volume show: radius cubed, and each coordinate of the direction."""
    images, radius = torch.zeros(6000, 1, 1, 3), 0.7
    x = random_start(images, radius, torch.arange(6000), seed=3).flatten(1).double()
    length = x.norm(dim=1)
    assert length.max() <= radius * (1 + 1e-6)
    shares = [(length / radius) ** 3, *((x / length[:, None] + 1) / 2).T]  # Archimedes: coordinates are uniform too
    for share in shares:
        counts = np.histogram(share.numpy(), bins=20, range=(0, 1))[0]
        assert ((counts - 300) ** 2 / 300).sum() < 50  # chi-squared, 19 degrees of freedom: beyond with 1e-4
    correlation = np.corrcoef(torch.cat([x, length[:, None]], 1).T.numpy())
    assert np.abs(correlation - np.eye(4)).max() < 0.05


def test_a_start_depends_on_seed_and_position_alone() -> None:
    images = torch.rand(9, 3, 5, 5)
    positions = torch.tensor([0, 1, 7, 2**33, 2**33 + 1, 12, 3, 4, 5])
    whole = random_start(images, 1.0, positions, seed=2**63 - 1)
    rows = torch.tensor([8, 3, 0, 4])
    part = random_start(torch.rand(4, 3, 5, 5), 1.0, positions[rows], seed=2**63 - 1)
    torch.testing.assert_close(part, whole[rows], rtol=1e-6, atol=1e-7)
    flat = torch.cat([whole, random_start(images, 1.0, positions, seed=1)]).flatten(1)
    unlike = nn_cosine(flat) - torch.eye(18)
    assert unlike.abs().max() < 0.6  # 75 dimensions: chance gives 0.12 on average


def nn_cosine(rows: torch.Tensor) -> torch.Tensor:
    unit = rows / rows.norm(dim=1, keepdim=True)
    return unit @ unit.T


def test_the_attack_starts_there_and_stays_in_its_ball() -> None:
    torch.manual_seed(0)
    model = JointModel(build_network("small_resnet4", 4, 1), (0.5,), (0.5,)).eval()
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6) % 4
    start = random_start(images, 1.0, torch.arange(6), seed=0)
    begun = attack_real(Rater(model), images, labels, PGD(steps=0, step_size=0.5, eps=1.0), start)
    assert torch.equal(begun, (images + start).clamp(0, 1))
    attacked = attack_real(Rater(model), images, labels, PGD(steps=2, step_size=0.5, eps=1.0), start)
    assert ((attacked - images).flatten(1).norm(dim=1) <= 1 + 1e-5).all()
    assert (Rater(model)(attacked, labels) < Rater(model)(begun, labels)).all()
    plain = attack_real(Rater(model), images, labels, PGD(steps=2, step_size=0.5, eps=1.0))
    assert ((attacked - plain).flatten(1).norm(dim=1) > 0.1).all()


@pytest.mark.parametrize("parts", [1, 2])
def test_positions_are_those_of_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    """The images of iteration 3 get the keys of their positions, however often gradients are accumulated."""
    config = configuration(real_start=0.2, accumulate=parts)
    accelerator = make_accelerator(config, tmp_path)
    model = JointModel(build_network("small_resnet2", 4, 1), (0.5,), (0.5,))
    learner = learning.Learner(model, config, accelerator)
    seen: list[int] = []

    def recorded(images: torch.Tensor, radius: float, positions: torch.Tensor, seed: int) -> torch.Tensor:
        seen.extend(positions.tolist())
        return random_start(images, radius, positions, seed)

    monkeypatch.setattr(learning, "random_start", recorded)
    data = InMemory()
    reader = BatchReader(data, EpochOrder(40, 0), batch_size=8 // parts)
    with reader.batches(start=3 * 8) as real, reader.batches(start=3 * 8) as generated:
        learner.step(3, real, generated)
        assert real.position == 4 * 8
    assert seen == list(range(24, 32))


class InMemory:
    path, class_names, label_source, notes = Path("memory"), None, "made up", ()

    def __init__(self) -> None:
        self.images, self.labels = real_images()
        self.shape = self.images.shape

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]

    def original(self, index: int) -> np.ndarray:
        return self.images[index]
