"""The yardstick: a plain classifier, trained separately, and the Fréchet distance between its features."""

from __future__ import annotations

import numpy as np
import torch
from data import CLASSES, Labelled
from torch import nn
from torch.nn import functional as F

FEATURES = 64


class Classifier(nn.Module):
    """[B, 1, S, S] in [0, 1] -> logits; `features` is the 64-dimensional layer before them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.GELU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.GELU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.BatchNorm2d(64), nn.GELU(),
            nn.Flatten(), nn.LazyLinear(FEATURES), nn.GELU(),
        )  # fmt: skip
        self.head = nn.Linear(FEATURES, len(CLASSES))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x * 2 - 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.dropout(self.features(x), 0.2, self.training))


def train_classifier(real: Labelled, *, epochs: int, seed: int, batch_size: int = 64) -> Classifier:
    """Train on images shifted by up to two pixels."""
    torch.manual_seed(seed)
    images, labels = real
    model = Classifier()
    model(images[:2])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=4e-3, total_steps=epochs * (len(images) // batch_size)
    )
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for chosen in order[: len(order) // batch_size * batch_size].split(batch_size):
            down, right = torch.randint(-2, 3, (2,)).tolist()
            x = torch.roll(images[chosen], (down, right), (2, 3))
            loss = F.cross_entropy(model(x), labels[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def features(model: Classifier, x: torch.Tensor) -> np.ndarray:
    """float64 [N, 64]."""
    return torch.cat([model.features(part) for part in x.split(256)]).double().numpy()


@torch.no_grad()
def accuracy(model: Classifier, images: Labelled) -> float:
    return float((model(images[0]).argmax(1) == images[1]).float().mean())


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of two sets of features [N, D], as in FID."""
    mean = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # tr (S_a S_b)^(1/2) = tr (R S_b R)^(1/2) with R = S_a^(1/2). R S_b R is symmetric: its eigenvalues are real and not
    # negative.
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(0)).sum()
    return mean + float(np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
