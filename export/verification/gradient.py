"""Compare an exported gradient with autograd of its model, on images new to the trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jboost.engine.backends.batch_of_one import at_least_two
from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.method.compare import class_logit_error, cosine, relative_error
from jboost.engine.method.objectives import OBJECTIVES, class_logit, resolve_objective
from jboost.engine.method.plugins import find_objective

from .float64 import in_float64

#: (x float32 [B, C, H, W], y int64 [B]) -> the four outputs of a gradient graph, as numpy arrays.
Run = Callable[[NDArray[np.float32], NDArray[np.int64]], Sequence[NDArray[np.generic]]]


@dataclass(frozen=True)
class Tolerance:
    """Largest allowed difference of an artefact from autograd in float64.

    A float32 network has kinks (rounding can flip the sign of a ReLU's input), and some networks amplify rounding a
    lot. So a gradient also passes if its error is within `slack` times the error of eager float32 autograd.

    Attributes:
        median: bound on the gradient's relative L2 error, median over images.
        worst: bound on the gradient's relative L2 error, largest over images.
        cosine: lower bound on the smallest cosine.
        logits: bound on the class logit's error, relative to the spread (standard deviation) of the image's reference
            logits.
        slack: allowed multiple of eager float32 autograd's own error.
    """

    median: float
    worst: float
    cosine: float
    logits: float
    slack: float = 4.0


#: Tolerances by dtype name. The half-precision ones are three times the errors of a robust model.
TOLERANCES = {
    "fp32": Tolerance(median=1e-4, worst=1e-2, cosine=0.9999, logits=1e-4),
    "fp16": Tolerance(median=0.06, worst=0.5, cosine=0.9, logits=0.02),
    "bf16": Tolerance(median=0.25, worst=0.7, cosine=0.8, logits=0.1),
}


#: Seed of the images on which loss scale and precision are chosen; verification draws other images.
PROBE_SEED = 1000


def tolerance(dtype: str, atol: float | None, rtol: float | None) -> Tolerance:
    """Return the dtype's tolerance; `atol` bounds the class logit's error, `rtol` the worst image's gradient error."""
    chosen = TOLERANCES[dtype]
    if atol is not None:
        chosen = replace(chosen, logits=atol)
    if rtol is not None:
        # An error of r leaves a cosine of at least sqrt(1 - r^2).
        cosine = math.sqrt(1 - rtol**2) if rtol < 1 else -1.0
        chosen = replace(chosen, worst=rtol, median=min(chosen.median, rtol), cosine=min(chosen.cosine, cosine))
    return chosen


@dataclass(frozen=True)
class Figures:
    """Differences of an artefact from autograd, over all check images.

    Attributes:
        images: number of images compared.
        grad_median, grad_worst: relative L2 error per image against float64.
        cosine_worst: smallest cosine against float64.
        logits_worst: largest error of the class logit, relative to the spread of the image's logits.
        loss_worst: largest error of the loss, relative to max(1, |loss|).
        predicted_wrong: images whose predicted class differs, not counting near-ties.
        eager_median, eager_worst: relative L2 error per image against eager autograd in the model's own precision.
        floor_median, floor_worst: relative L2 error of eager float32 autograd itself against float64 (the worst of
            three runs per image, two of them with noise in the input's last bit).
    """

    images: int
    grad_median: float
    grad_worst: float
    cosine_worst: float
    logits_worst: float
    loss_worst: float
    predicted_wrong: int
    eager_median: float
    eager_worst: float
    floor_median: float
    floor_worst: float

    def as_dict(self) -> dict[str, float | int]:
        """Return the figures as they stand in a bundle's ``config.json``."""
        return asdict(self)


def check_images(batch: int, shape: tuple[int, int, int], seed: int = 1) -> tuple[Tensor, Tensor]:
    """Draw (random, smooth) images, float32 [batch, C, H, W] in [0, 1]; smooth ones have roughly a photo's spectrum."""
    C, H, W = shape
    g = torch.Generator().manual_seed(seed)
    noisy = torch.rand((batch, C, H, W), generator=g)
    smooth = torch.zeros((batch, C, H, W))
    for size, weight in ((3, 0.6), (7, 0.3), (15, 0.15)):
        coarse = torch.randn((batch, C, size, size), generator=g)
        smooth += weight * nn.functional.interpolate(coarse, size=(H, W), mode="bicubic", align_corners=True)
    return noisy, (0.5 + 0.25 * smooth).clamp(0, 1)


def autograd(
    model: nn.Module, objective: str, x: Tensor, y: Tensor, l0: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute (grad [B, C, H, W], logits [B, K], class_logit [B], loss [B]) by eager autograd."""
    x = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(at_least_two(x))[: len(x)]
        loss = OBJECTIVES[objective](logits, y, 0.0 if l0 is None else l0)
        (grad,) = torch.autograd.grad(loss.sum(), x)
    f_c: Tensor = class_logit(logits, y)
    return grad.detach(), logits.detach(), f_c.detach(), loss.detach()


def _floor(
    model: nn.Module,
    objective: str,
    x: Tensor,
    y: Tensor,
    l0: float | None,
    want: Tensor,
    eager: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Return float32's own error per image [B]: the worst of eager autograd on x and on x with noise in its last bit.

    Rounding in one run flips a ReLU's sign only by chance; three runs show how sensitive an image is.
    """
    worst: Tensor = relative_error(eager, want)
    for _ in range(2):
        stirred = x * (1 + 1.2e-7 * torch.randn(x.shape, generator=generator))
        worst = torch.maximum(worst, relative_error(autograd(model, objective, stirred, y, l0)[0], want))
    return worst


@dataclass(frozen=True)
class Reference:
    """What autograd gives on a batch of check images.

    Attributes:
        grad, logits, loss: in float64: [B, C, H, W], [B, K], [B].
        eager: the gradient in the model's own precision.
        floor: float32's own error per image [B].
    """

    grad: Tensor
    logits: Tensor
    loss: Tensor
    eager: Tensor
    floor: Tensor


class References:
    """Autograd of one network on the check images: computed once for all the graphs that are compared with it.

    Graphs of several dtypes share it, and the forward pass shares its logits with the gradient.

    Args:
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes], in eval mode; it must not change.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._classes = 0
        self._gradients: dict[Any, Reference] = {}
        self._logits: dict[Any, Tensor] = {}

    def gradient(
        self, objective: str, l0: float | None, x: Tensor, batch: int, kind: int, seed: int
    ) -> tuple[Tensor, Reference]:
        """Draw labels for a batch of `check_images` and compare float64 with float32 on its first images.

        Args:
            objective, l0: the objective and its constant.
            x: float32 [B, C, H, W]; the result of ``check_images(B, shape, seed)`` at `kind`.
            batch: number of images to differentiate at, the first ones.
            kind: 0 for random images, 1 for smooth ones.
            seed: seed of the images.

        Returns:
            (labels int64 [B], reference of the first `batch` images).
        """
        if not self._classes:
            with torch.no_grad():
                self._classes = self._model(x[:1]).shape[1]
        g = torch.Generator().manual_seed(seed + 100)
        y = torch.randint(0, self._classes, (len(x),), generator=g)
        key = (objective, l0, tuple(x.shape), batch, kind, seed)
        if key not in self._gradients:
            xs, ys = x[:batch], y[:batch]
            want, logits, _, loss = autograd(in_float64(self._model), objective, xs.double(), ys, l0)
            eager = autograd(self._model, objective, xs, ys, l0)[0]
            floor = _floor(self._model, objective, xs, ys, l0, want, eager, g)
            self._gradients[key] = Reference(want, logits, loss, eager, floor)
            if batch == len(x):
                self._logits[tuple(x.shape), kind, seed] = logits
        return y, self._gradients[key]

    def logits(self, x: Tensor, kind: int, seed: int) -> Tensor:
        """Return the float64 logits [B, K] of ``check_images(B, shape, seed)`` at `kind`."""
        key = (tuple(x.shape), kind, seed)
        if key not in self._logits:
            with torch.no_grad():
                self._logits[key] = in_float64(self._model)(x.double())
        return self._logits[key]


def measure(
    run: Run,
    model: nn.Module,
    objective: str,
    shape: tuple[int, int, int],
    *,
    l0: float | None = None,
    batch_sizes: Sequence[int] = (4,),
    fixed_batch: int | None = None,
    seed: int = 1,
    references: References | None = None,
) -> Figures:
    """Compare `run` with autograd of `model` on random and smooth images.

    Args:
        run: the artefact in its own runtime.
        model: the original model, float32, in evaluation mode. It is copied to float64 for the reference.
        objective: the exported objective.
        shape: (C, H, W).
        l0: mean realness of real images, for objectives that need it.
        batch_sizes: images per call; two different sizes show that the batch does not matter.
        fixed_batch: the artefact's batch size; None if any size works. Smaller batches are padded with other images.
        seed: seed of the check images; must differ from the seed that graphs are scaled with.
        references: what is known of `model` from other graphs; by default nothing is.

    Raises:
        BadInputError: the objective is unknown, or a batch is larger than the fixed one.
        FailureError: the artefact returns wrong shapes or values that are not finite.
    """
    resolve_objective(find_objective(objective), l0)
    references = references or References(model)
    rows: list[tuple[Tensor, ...]] = []
    wrong, moving = 0, False
    for number, batch in enumerate(batch_sizes):
        full = fixed_batch or batch
        if batch > full:
            raise BadInputError(f"{batch} check images do not fit into the fixed batch of {full}")
        for kind, x in enumerate(check_images(full, shape, seed + number)):
            y, known = references.gradient(objective, l0, x, batch, kind, seed + number)
            outputs = [torch.from_numpy(np.asarray(o)) for o in run(x.numpy(), y.numpy())]
            _check_outputs(outputs, x)
            grad, f_c, loss, predicted = (o[:batch] for o in outputs)
            want, want_loss = known.grad, known.loss
            loss_error = (loss.double() - want_loss).abs() / want_loss.abs().clamp_min(1.0)
            f_error, others = class_logit_error(f_c, predicted, known.logits, y[:batch])
            error, to_eager = relative_error(grad, want), relative_error(grad, known.eager)
            rows.append((error, cosine(grad, want), f_error, loss_error, to_eager, known.floor))
            wrong += others
            moving = moving or bool(want.any())
    if not moving:
        raise FailureError(
            f"the gradient of objective {objective} is zero on every check image, so its graph cannot be verified; give the "
            "objective a slope there, or another l0"
        )
    error, cosines, f_error, loss_error, to_eager, floor = (torch.cat(column) for column in zip(*rows, strict=True))
    return Figures(
        images=len(error),
        grad_median=float(error.median()),
        grad_worst=float(error.max()),
        cosine_worst=float(cosines.min()),
        logits_worst=float(f_error.max()),
        loss_worst=float(loss_error.max()),
        predicted_wrong=wrong,
        eager_median=float(to_eager.median()),
        eager_worst=float(to_eager.max()),
        floor_median=float(floor.median()),
        floor_worst=float(floor.max()),
    )


def _check_outputs(outputs: Sequence[Tensor], x: Tensor) -> None:
    batch = [x.shape[0]]
    wanted = [list(x.shape), batch, batch, batch]
    if [list(o.shape) for o in outputs] != wanted:
        raise FailureError(f"the artefact returns shapes {[list(o.shape) for o in outputs]} instead of {wanted}")
    for name, o in zip(("gradient", "class logit", "loss"), outputs[:3], strict=True):
        if not bool(o.isfinite().all()):
            raise FailureError(
                f"the artefact's {name} is not finite on the check images; in fp16 that is overflow: export --dtype bf16 "
                "instead"
            )


def judge(figures: Figures, tolerance: Tolerance, name: str = "the artefact") -> None:
    """Check `figures` against `tolerance`.

    Raises:
        FailureError: a figure is above its bound; the message names each one with its bound.
    """
    slack = tolerance.slack
    bounds = [
        ("median gradient error", figures.grad_median, max(tolerance.median, slack * figures.floor_median)),
        ("worst gradient error", figures.grad_worst, max(tolerance.worst, slack * figures.floor_worst)),
        ("1 - worst cosine", 1 - figures.cosine_worst, max(1 - tolerance.cosine, (slack * figures.floor_worst) ** 2)),
        ("class logit error", figures.logits_worst, tolerance.logits),
        ("images with another predicted class", float(figures.predicted_wrong), 0.0),
    ]
    over = [f"{what} {value:.3g} (bound {bound:.3g})" for what, value, bound in bounds if not value <= bound]
    if over:
        raise FailureError(
            f"{name} does not match autograd: {', '.join(over)}; do not use a graph that fails this check"
        )
