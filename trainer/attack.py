"""The attacks that training defends against (section 3.1.2 of arXiv 2405.16260): real images made to look generated, generated
ones made to look real.

Both move an image along the gradient of its class logit f_c. Their losses, softplus(-f_c) and softplus(f_c), are monotonic in
f_c, and a step is normalised to a fixed length, so the direction is the same; the logit's gradient does not vanish where the
sigmoid saturates. The steps, the projection and the clamp are the engine's, so that a model is attacked with what it is used for.

Images are float32 [B, C, H, W] in [0, 1], labels int64 [B]. The model is in eval mode while it attacks: each image's attack then
depends on that image alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from jboost.engine.objectives import class_logit
from jboost.engine.updates import PGD


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode, and every module back into the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def rate(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The class logit f_c of each image, in eval mode: float [B]. High means real."""
    with evaluating(model), torch.no_grad():
        f_c: torch.Tensor = class_logit(model(x), labels)
    return f_c


def _logit_gradient(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """d f_c / d x [B, C, H, W] and f_c [B], image by image: the logits are summed, never averaged."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        f_c = class_logit(model(x), labels)
        (grad,) = torch.autograd.grad(f_c.sum(), x)
    return grad, f_c.detach()


def _move(update: PGD, x: torch.Tensor, x0: torch.Tensor, loss_grad: torch.Tensor, step: int) -> torch.Tensor:
    """One step of the engine's PGD, down `loss_grad`. It draws no noise, so seed and index have no effect."""
    index = torch.arange(x.shape[0], device=x.device)
    moved: torch.Tensor = update.move(x, x0, loss_grad, index=index, step=torch.full_like(index, step))
    return moved


def attack_real(model: nn.Module, x0: torch.Tensor, labels: torch.Tensor, update: PGD) -> torch.Tensor:
    """Maximise the BCE of real images, softplus(-f_c): move them to where the model takes them for generated ones.

    Args:
        model: x -> logits.
        x0: real images, float32 [B, C, H, W] in [0, 1].
        labels: int64 [B].
        update: steps, step size and radius; the paper's are 4 steps of 0.25 within an L2 ball of 1.0.

    Returns:
        The attacked images, float32 [B, C, H, W] in [0, 1], each within ``update.eps`` of its original.
    """
    x = x0.detach().clone()
    with evaluating(model):
        for step in range(update.steps):
            grad, _ = _logit_gradient(model, x, labels)
            x = _move(update, x, x0, grad, step)
    return x


def attack_generated(
    model: nn.Module, x0: torch.Tensor, labels: torch.Tensor, update: PGD, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move generated images towards "real", each until the model rates it above its target.

    An image that is rated more real than the attacked real image it is paired with has fooled the model already; pushing it
    further would teach the model to distrust images that it has no reason to distrust. Images that have stopped leave the batch.

    Args:
        model: x -> logits.
        x0: generated images, float32 [B, C, H, W] in [0, 1].
        labels: int64 [B], the class that each was generated as.
        update: the largest number of steps, step size and radius; the paper's are steps of 0.1 within an L2 ball of 10.
        target: float [B], f_c of the attacked real image that each is paired with. ``inf`` never stops.

    Returns:
        The attacked images, float32 [B, C, H, W] in [0, 1], each within ``update.eps`` of its original, and the number of steps
        that each took, int64 [B] in [0, ``update.steps``].
    """
    x = x0.detach().clone()
    taken = torch.zeros_like(labels)
    active = torch.arange(x.shape[0], device=x.device)
    with evaluating(model):
        for step in range(update.steps):
            grad, f_c = _logit_gradient(model, x[active], labels[active])
            behind = f_c <= target[active]
            active, grad = active[behind], grad[behind]
            if active.numel() == 0:
                break
            x[active] = _move(update, x[active], x0[active], -grad, step)
            taken[active] += 1
    return x, taken
