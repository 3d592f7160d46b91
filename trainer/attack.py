"""The attacks that training defends against (section 3.1.2 of arXiv 2405.16260).

One attack makes real images look generated, the other makes generated images look real. Both move an image along the
gradient of its score, the class logit f_c. Their losses, softplus(-f_c) and softplus(f_c), are monotonic in f_c, and
each step has a fixed length, so following the logit gives the same steps as following the loss. The logit's gradient
also does not vanish where the sigmoid saturates. The engine's code takes the steps, projects and clamps, so training
attacks the model with the steps that boosting uses.

Images are float32 [B, C, H, W] in [0, 1], labels int64 [B].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from jboost.engine.backends.batch_of_one import at_least_two
from jboost.engine.method.arrays import per_image
from jboost.engine.method.objectives import class_logit, cross_entropy
from jboost.engine.method.updates import PGD

from .losses import Score

#: x [B, C, H, W] -> logits [B, classes].
Forward = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put `model` in eval mode; on exit, every module returns to its previous mode.

    A model in training mode also gets its ``train()`` call: networks that cache tensors in eval mode (LeViT's attention
    biases) clear them there, and a stale cache would ignore the weights' next update.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        if modes[0][1]:
            model.train()
        for module, mode in modes:
            module.training = mode


def compiled_forward(model: nn.Module) -> Forward:
    """Compile the forward pass of `model` and its input gradient with Inductor, at the first call with each shape.

    The weights are arguments of the compiled function, so one compilation serves all iterations. They are passed
    detached: the backward graph then computes only the input's gradient, which is a third less work.
    """

    def forward(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = torch.func.functional_call(model, state, (x,))
        return logits

    compiled = torch.compile(forward, dynamic=False, fullgraph=True)

    def call(x: torch.Tensor) -> torch.Tensor:
        state = {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        logits: torch.Tensor = compiled(state, x)
        return logits

    return call


def label_score(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log softmax(f)_c: the score that an attack on the classification lowers. [B, C], int64 [B] -> [B]."""
    score: torch.Tensor = -cross_entropy(logits, labels)
    return score


class Rater:
    """Rates images with a model in eval mode, so that each image's rating depends on that image alone.

    Args:
        model: x -> logits.
        score: the rating as a function of the logits: one of `jboost.trainer.losses.SCORES`, `label_score`, or another.
        compiled: from `compiled_forward` for `model`, then every batch must have the same size; None: eager.
        autocast: makes the context in which the network runs, for mixed precision.
        loss_scale: factor of the score for its gradient; without it, float16 gradients of a single image underflow.
    """

    def __init__(
        self,
        model: nn.Module,
        score: Score = class_logit,
        *,
        compiled: Forward | None = None,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        loss_scale: float = 1.0,
    ):
        self.model = model
        self.fixed_batch = compiled is not None
        self._forward = compiled or model
        self._score = score
        self._autocast = autocast
        self._loss_scale = loss_scale

    def _rate(self, x: torch.Tensor, labels: torch.Tensor, forward: Forward) -> torch.Tensor:
        with self._autocast():
            logits = forward(x)[: len(labels)]
        return self._score(logits.float(), labels)

    def __call__(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The score of each image: float32 [B]."""
        with evaluating(self.model), torch.no_grad():
            return self._rate(x, labels, self.model)

    def gradient(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The direction of d score / d x, float32 [B, C, H, W], and the score, float32 [B].

        The scores are summed over the batch, never averaged. The gradient's length includes the loss scale. If an
        image's gradient overflowed in float16, it is zero and the image does not move in this step.
        """
        x = x.detach().requires_grad_(True)
        with evaluating(self.model), torch.enable_grad():
            images = x if self.fixed_batch else at_least_two(x)
            score = self._rate(images, labels, self._forward)
            (grad,) = torch.autograd.grad(score.sum() * self._loss_scale, x)
        if self._loss_scale != 1.0:
            grad = torch.where(per_image(grad.isfinite().flatten(1).all(1), grad), grad, 0.0)
        return grad, score.detach()


def _move(update: PGD, x: torch.Tensor, x0: torch.Tensor, loss_grad: torch.Tensor, step: int) -> torch.Tensor:
    """Take one step of the engine's PGD, down `loss_grad`. PGD draws no noise, so seed and index have no effect."""
    index = torch.arange(x.shape[0], device=x.device)
    moved: torch.Tensor = update.move(x, x0, loss_grad, index=index, step=torch.full_like(index, step))
    return moved


def attack_real(
    rater: Rater, x0: torch.Tensor, labels: torch.Tensor, update: PGD, start: torch.Tensor | None = None
) -> torch.Tensor:
    """Move real images to where the model takes them for generated ones.

    The attack lowers their score. For the score f_c, this raises their BCE, softplus(-f_c).

    Args:
        rater: the model and the score to lower.
        x0: real images, float32 [B, C, H, W] in [0, 1].
        labels: int64 [B].
        update: steps, step size and radius; the paper uses 4 steps of 0.25 within an L2 ball of 1.0.
        start: what the attack adds to each image before its first step, float32 [B, C, H, W], no longer than
            ``update.eps``; None: nothing.

    Returns:
        The attacked images, float32 [B, C, H, W] in [0, 1], each within ``update.eps`` of its original.
    """
    x = x0.detach().clone() if start is None else (x0.detach() + start).clamp(0.0, 1.0)
    for step in range(update.steps):
        grad, _ = rater.gradient(x, labels)
        x = _move(update, x, x0, grad, step)
    return x


def attack_generated(
    rater: Rater, x0: torch.Tensor, labels: torch.Tensor, update: PGD, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Move generated images towards "real", each until the model rates it above its target.

    Once the model rates an image above its paired, attacked real image, the image has fooled the model. Moving it
    further would teach the model to distrust images without a reason. Stopped images leave the batch. If the rater is
    compiled for one batch size, they stay in it, unmoved.

    Args:
        rater: the model and the score to raise.
        x0: generated images, float32 [B, C, H, W] in [0, 1].
        labels: int64 [B], the class that each image was generated as.
        update: largest number of steps, step size and radius; the paper uses steps of 0.1 within an L2 ball of 10.
        target: float [B], the score of each image's paired, attacked real image. With ``inf`` an image never stops.

    Returns:
        The attacked images, float32 [B, C, H, W] in [0, 1], each within ``update.eps`` of its original, and the number
        of steps that each took, int64 [B] in [0, ``update.steps``].
    """
    x = x0.detach().clone()
    taken = torch.zeros_like(labels)
    going = torch.ones_like(labels, dtype=torch.bool)
    rows = torch.arange(x.shape[0], device=x.device)
    for step in range(update.steps):
        grad, score = rater.gradient(x[rows], labels[rows])
        going[rows] &= score <= target[rows]
        if not bool(going.any()):
            break
        moved = _move(update, x[rows], x0[rows], -grad, step)
        x[rows] = torch.where(per_image(going[rows], moved), moved, x[rows])
        taken += going
        if not rater.fixed_batch:
            rows = rows[going[rows]]
    return x, taken
