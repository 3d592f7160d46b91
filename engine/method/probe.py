"""Checks of objectives and updates from outside jboost, on random inputs, before anything uses them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jboost.engine.errors import BadInputError, one_line

from .updates import PGD, Update

#: Numbers of classes to try where the model's is not known yet; the first that works is used.
TRIED_CLASSES = (10, 1000, 100, 2, 1)
_ROWS = 6
_SCALES = (1.0, 10.0, 30.0)
_L0S = (0.0, 1.0, 7.0)
_CLOSE = 1e-5  # relative; a function may hold float32 constants


class Facts(NamedTuple):
    """What an objective's values depend on, besides the logits."""

    needs_l0: bool
    label_free: bool


def check_objective(name: str, function: Callable[..., Any], classes: int | None = None) -> Facts:
    """Check that an objective gives one loss per image, from that image alone, finite and differentiable.

    Args:
        name: for messages.
        function: torch (logits [B, C], labels int64 [B], l0) -> [B].
        classes: C; None: any number that works.

    Returns:
        Whether it depends on l0 and on the labels, as seen on random inputs.

    Raises:
        BadInputError: it does not; the message says what is wrong.
    """
    if not callable(function):
        raise BadInputError(f"objective {name} is a {type(function).__name__}, not a function of (logits, labels, l0)")
    problems = []
    for count in TRIED_CLASSES if classes is None else (classes,):
        try:
            return _checked(name, function, count)
        except BadInputError:
            raise
        except Exception as e:  # the function is somebody else's code
            problems.append(f"{type(e).__name__}: {one_line(e)}")
    raise BadInputError(
        f"objective {name} fails on logits [{_ROWS}, {classes or TRIED_CLASSES[0]}] ({problems[0]}); mend it"
    )


def _checked(name: str, function: Callable[..., Any], classes: int) -> Facts:
    import torch

    generator = torch.Generator().manual_seed(0)
    needs_l0 = False
    for scale in _SCALES:
        logits = scale * torch.randn((_ROWS, classes), generator=generator, dtype=torch.float64)
        labels = torch.randint(0, classes, (_ROWS,), generator=generator)
        other = torch.randint(0, classes, (_ROWS,), generator=generator)
        first = _losses(name, function, logits, labels, _L0S[1])
        if _differ(first, _losses(name, function, logits, labels, _L0S[1])).any():
            raise BadInputError(f"objective {name} is random: it gives another loss for the same logits; mend it")
        # Each row in other company, at another place and alone. Its loss and gradient must stay.
        company = torch.cat([logits[3:], 3 * torch.flip(logits[:3], (1,))]), torch.cat([labels[3:], other[:3]])
        alone = [_losses(name, function, logits[i : i + 1], labels[i : i + 1], _L0S[1]) for i in range(3)]
        moved = _losses(name, function, *company, _L0S[1])[:3]
        if _differ(first[3:], moved).any() or _differ(first[:3], torch.cat(alone)).any():
            raise BadInputError(
                f"objective {name} mixes images: the loss of a row changes with the other rows; compute each row's loss from "
                "that row alone, without means, sums or norms over the batch"
            )
        for l0 in _L0S:
            needs_l0 = needs_l0 or bool(_differ(first, _losses(name, function, logits, labels, l0)).any())
        # NaN in, NaN out: so a term that these logits leave idle shows too.
        needs_l0 = needs_l0 or not bool(function(logits, labels, float("nan")).isfinite().all())
    return Facts(needs_l0, not _touches_labels(function, logits, labels))


def _touches_labels(function: Callable[..., Any], logits: Any, labels: Any) -> bool:
    """Whether a function does anything with the labels, even if these inputs show no effect of it."""
    import torch

    class Watched(torch.Tensor):
        touched = False

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Watched.touched = True
            return super().__torch_function__(func, types, args, kwargs or {})  # type: ignore[no-untyped-call]

    watched = labels.as_subclass(Watched)
    Watched.touched = False
    function(logits, watched, _L0S[1])
    return Watched.touched


def _losses(name: str, function: Callable[..., Any], logits: Any, labels: Any, l0: float) -> Any:
    """Loss and gradient of each row: float64 [B, 1 + C]."""
    import torch

    logits = logits.clone().requires_grad_()
    with torch.enable_grad():
        loss = function(logits, labels.clone(), l0)
    count = len(logits)
    if not isinstance(loss, torch.Tensor) or list(loss.shape) != [count]:
        got = f"shape {list(loss.shape)}" if isinstance(loss, torch.Tensor) else f"a {type(loss).__name__}"
        raise BadInputError(
            f"objective {name} returns {got} for logits {list(logits.shape)}; it must return one loss per image, a tensor of "
            f"shape [{count}], without a mean or sum over the batch"
        )
    if not bool(loss.isfinite().all()):
        raise BadInputError(
            f"objective {name} returns NaN or infinity for logits of at most {float(logits.detach().abs().max()):.0f}; mend it"
        )
    if not loss.requires_grad:
        raise BadInputError(
            f"objective {name} does not depend on the logits differentiably, so no image would move; mend it"
        )
    (grad,) = torch.autograd.grad(loss.sum(), logits, allow_unused=True)
    if grad is None or not bool(grad.isfinite().all()):
        raise BadInputError(
            f"the gradient of objective {name} is {'missing' if grad is None else 'not finite'}; mend it"
        )
    return torch.cat([loss.detach().double()[:, None], grad.double()], dim=1)


def _differ(a: Any, b: Any) -> Any:
    """Which entries differ by more than rounding."""
    return (a - b).abs() > _CLOSE * (1 + a.abs() + b.abs())


def check_update(update: type[Update]) -> None:
    """Check that each move of an update gives the next iterate of each image from that image alone.

    Raises:
        BadInputError: it does not, or it fails on numpy arrays; the message says what is wrong.
    """
    rng = np.random.default_rng(0)
    x, x0 = (rng.random((4, 3, 4, 4), dtype=np.float32) for _ in range(2))
    grad = rng.standard_normal((4, 3, 4, 4)).astype(np.float32)
    index, step = np.arange(4) + 5, np.arange(4)
    controls = PGD(step_size=0.1, eps=2.0).controls(seed=3)._replace(noise=np.array(0.1, np.float32))
    for kind, move in update.moves.items():
        try:
            whole = move(x, x0, grad, index, step, controls)
            part = move(x[2:], x0[2:], grad[2:], index[2:], step[2:], controls)
        except Exception as e:  # the move is somebody else's code
            raise BadInputError(
                f"update {update.name}: its move {kind} fails on numpy arrays ({type(e).__name__}: {one_line(e)}); write it "
                "against the array API, see CONTRIBUTING.md"
            ) from e
        if not isinstance(whole, np.ndarray) or whole.shape != x.shape or whole.dtype != np.float32:
            raise BadInputError(f"update {update.name}: its move {kind} must return float32 of the shape of x")
        if not np.allclose(whole[2:], part, atol=1e-5):
            raise BadInputError(
                f"update {update.name}: its move {kind} mixes images: a row changes with the other rows; compute each row alone"
            )
