"""A small class-conditional generator: rectified flow (Liu, Gong, Liu 2022), sampled in a few Euler steps.

It learns the velocity v(z_t, t, c) = x - z that carries noise z (t = 0) to an image x (t = 1) along straight lines. In
hundreds of steps it would sample good images. In a few, as here, it is quick and its images are visibly imperfect, so
boosting has something to improve.
"""

from __future__ import annotations

import torch
from data import CLASSES, Labelled
from torch import nn
from torch.nn import functional as F


class Velocity(nn.Module):
    """v(z, t, c) for [B, 1, S, S] images: a perceptron with residual blocks; its input includes time and class."""

    def __init__(self, size: int, width: int = 512, blocks: int = 3) -> None:
        super().__init__()
        pixels = size * size
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(len(CLASSES), width)
        self.enter = nn.Linear(pixels, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(blocks)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, pixels))

    def forward(self, z: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        h = self.enter(z.flatten(1)) + self.time(t[:, None]) + self.label(labels)
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h).reshape(z.shape)


def train_generator(real: Labelled, *, iterations: int, seed: int, batch_size: int = 128) -> Velocity:
    """Train by flow matching on images [N, 1, S, S] in [0, 1]."""
    torch.manual_seed(seed)
    images, labels = real[0] * 2 - 1, real[1]
    model = Velocity(images.shape[-1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=iterations)
    for _ in range(iterations):
        chosen = torch.randint(len(images), (batch_size,))
        x, z, t = images[chosen], torch.randn(batch_size, *images.shape[1:]), torch.rand(batch_size)
        mixed = torch.lerp(z, x, t[:, None, None, None])
        loss = F.mse_loss(model(mixed, t, labels[chosen]), x - z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def sample(
    model: Velocity, shape: tuple[int, int, int], labels: torch.Tensor, *, steps: int, seed: int
) -> torch.Tensor:
    """Images [N, *shape] in [0, 1] of the classes `labels`, in `steps` Euler steps."""
    z = torch.randn(len(labels), *shape, generator=torch.Generator().manual_seed(seed))
    for step in range(steps):
        t = torch.full((len(labels),), step / steps)
        z = z + model(z, t, labels) / steps
    return ((z + 1) / 2).clamp(0, 1)
