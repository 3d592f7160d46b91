"""The generators: a rectified flow that was straightened, so that it can be sampled in one or two steps, and a VAE of another kind.

The flow works on principal components. A rectified flow that was trained on independent pairs of noise and image gives, in a single
Euler step, the mean image of the class and nothing else: its first velocity is the mean of all images minus the noise. So it is
straightened by reflow (Liu, Gong, Liu 2022): a second flow is trained on the pairs that the first one makes in many steps, and its
single step depends on the noise.

The VAE (Kingma and Welling 2014) works on pixels, and its flaw is blur. No joint model is trained on its samples.
"""

from __future__ import annotations

import torch
from codes import Codes
from data import CLASSES, Labelled
from generator import Velocity, sample, train_generator
from torch import nn
from torch.nn import functional as F

CODE = 10
TEACHER_STEPS = 16

# Of the VAE's decoder.
VARIANCE = 0.05


def train_flow(real: Labelled, codes: Codes, *, iterations: int, pairs: int, reflow: int, seed: int) -> Velocity:
    """A flow on codes [N, 1, CODE, CODE] of `real`, straightened once.

    Args:
        real: images float32 [N, 1, H, W] in [0, 1] and labels.
        codes: of such images.
        iterations: of the first flow.
        pairs: of noise and image, to train the second one on.
        reflow: iterations of the second one.
        seed: of everything.
    """
    teacher = train_generator((codes.encode(real[0]), real[1]), iterations=iterations, seed=seed)
    generator = torch.Generator().manual_seed(1000 * seed + 500)
    noise = torch.randn(pairs, 1, CODE, CODE, generator=generator)
    labels = torch.arange(pairs) % len(CLASSES)
    # What `sample` draws from the same seed is this noise: the pair's other half.
    images = sample(teacher, (1, CODE, CODE), labels, steps=TEACHER_STEPS, seed=1000 * seed + 500) * 2 - 1
    return _straighten(teacher, noise, images, labels, iterations=reflow, seed=seed)


def _straighten(
    student: Velocity, noise: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, *, iterations: int, seed: int
) -> Velocity:
    """Flow matching on pairs [N, 1, S, S], from the weights of the flow that made them."""
    torch.manual_seed(seed)
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    for _ in range(iterations):
        chosen = torch.randint(len(noise), (128,))
        z, x = noise[chosen], images[chosen]
        # The only times that a sampler of one or two steps asks for.
        t = torch.randint(2, (len(chosen),)) / 2
        loss = F.mse_loss(student(torch.lerp(z, x, t[:, None, None, None]), t, labels[chosen]), x - z)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return student.eval()


def sample_flow(flow: Velocity, codes: Codes, count: int, *, steps: int, seed: int) -> Labelled:
    """`count` images float32 [N, 1, H, W] in [0, 1], as many of each class."""
    labels = torch.arange(count) % len(CLASSES)
    return codes.decode(sample(flow, (1, CODE, CODE), labels, steps=steps, seed=seed)), labels


class VAE(nn.Module):
    """A class-conditional VAE of images [B, 1, S, S] in [0, 1]: perceptrons, and a latent of `latent` numbers.

    Sampled from Gaussians that are fitted to the latents of each class once training is over (Ghosh et al. 2020, arXiv 1903.12436):
    after so short a training they are far from filling the prior.
    """

    def __init__(self, side: int, width: int = 400, latent: int = 12) -> None:
        super().__init__()
        self.side, self.latent, pixels, classes = side, latent, side * side, len(CLASSES)
        self.encoder = _perceptron(pixels + classes, width, 2 * latent)
        self.decoder = nn.Sequential(_perceptron(latent + classes, width, pixels), nn.Sigmoid())
        self.register_buffer("centres", torch.zeros(classes, latent))
        self.register_buffer("roots", torch.eye(latent).repeat(classes, 1, 1))

    def encode(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and logarithm of the variance of the latents, [B, L] each."""
        mean, log_variance = self.encoder(_join(images.flatten(1), labels)).chunk(2, 1)
        return mean, log_variance

    def decode(self, latent: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The mean image [B, 1, S, S] of latents [B, L]."""
        return self.decoder(_join(latent, labels)).reshape(-1, 1, self.side, self.side)

    def loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The negative evidence bound, up to a constant: a scalar."""
        mean, log_variance = self.encode(images, labels)
        latent = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        kl = (mean**2 + log_variance.exp() - log_variance - 1).sum(1).mean() / 2
        apart = ((self.decode(latent, labels) - images) ** 2).flatten(1).sum(1).mean()
        return apart / (2 * VARIANCE) + kl

    @torch.no_grad()
    def fit_latents(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """One Gaussian for the latents of each class."""
        for c in range(len(CLASSES)):
            chosen = labels == c
            mean, log_variance = self.encode(images[chosen], labels[chosen])
            covariance = torch.cov(mean.T) + torch.diag(log_variance.exp().mean(0))
            self.centres[c], self.roots[c] = mean.mean(0), torch.linalg.cholesky(covariance)


def _perceptron(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, outputs)
    )


def _join(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.cat([x, F.one_hot(labels, len(CLASSES)).to(x.dtype)], 1)


def train_vae(real: Labelled, *, iterations: int, seed: int, batch_size: int = 128) -> VAE:
    """On images float32 [N, 1, S, S] in [0, 1]."""
    torch.manual_seed(seed)
    model = VAE(real[0].shape[-1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=iterations)
    for _ in range(iterations):
        chosen = torch.randint(len(real[1]), (batch_size,))
        loss = model.loss(real[0][chosen], real[1][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    model.fit_latents(*real)
    return model.eval()


@torch.no_grad()
def sample_vae(model: VAE, count: int, *, seed: int) -> Labelled:
    """`count` mean images float32 [N, 1, S, S] in [0, 1], as many of each class."""
    labels = torch.arange(count) % len(CLASSES)
    noise = torch.randn(count, model.latent, 1, generator=torch.Generator().manual_seed(seed))
    return model.decode(model.centres[labels] + (model.roots[labels] @ noise).squeeze(2), labels), labels
