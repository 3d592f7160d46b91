"""How the iterate moves, given the gradient: PGD (algorithms 1 and 2) and SGLD (algorithm 3).

Written against the array API: numpy, torch and the compiler run the same lines. The iterate is float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jboost.engine.errors import BadInputError

from .arrays import Array, namespace, per_image
from .noise import normal, split_seed

# Below this a gradient is zero: dividing by it would turn rounding into direction.
_TINY = 1e-30


def l2_norm(v: Array) -> Array:
    """Euclidean norm of each image: [B, ...] -> [B]. Scaled by the largest entry, so that squares neither overflow nor vanish."""
    xp = namespace(v)
    flat = xp.reshape(v, (v.shape[0], -1))
    top = xp.max(xp.abs(flat), axis=1)
    safe = xp.where(top > _TINY, top, xp.ones_like(top))
    return safe * xp.sqrt(xp.sum((flat / safe[:, None]) ** 2, axis=1))


def project_l2(x: Array, x0: Array, radius: float | Array) -> Array:
    """The point of the L2 ball of `radius` around `x0` that is nearest to `x`, image by image."""
    xp = namespace(x, x0)
    moved = x - x0
    norm = l2_norm(moved)
    shrink = xp.where(norm > radius, radius / xp.where(norm > radius, norm, xp.ones_like(norm)), xp.ones_like(norm))
    return xp.where(per_image(norm > radius, x), x0 + moved * per_image(shrink, x), x)


class Controls(NamedTuple):
    """What a run's step depends on besides the images, as arrays: one compiled step serves every step size, radius and seed.

    Attributes:
        step_size: float32, length of a step or factor of the gradient.
        radius: float32, of the ball around the input; infinity for none.
        noise: float32, standard deviation of a step's noise.
        threshold: float32, the realness at which an image stops; infinity for no early stopping.
        key: int64 [2], the seed's lower and upper 32 bits.
    """

    step_size: Array
    radius: Array
    noise: Array
    threshold: Array
    key: Array


#: (x, x0, grad float32 [B, C, H, W], index int64 [B], step int64 [B], controls) -> the next iterate.
Move = Callable[[Array, Array, Array, Array, Array, Controls], Array]


def _descend_l2(x: Array, x0: Array, grad: Array, index: Array, step: Array, how: Controls) -> Array:
    """Algorithm 1: normalise, descend, clamp to [0, 1], project onto the ball around `x0`."""
    xp = namespace(x, grad)
    norm = l2_norm(grad)
    direction = grad / per_image(xp.where(norm > _TINY, norm, xp.ones_like(norm)), grad)
    x = xp.clip(x - how.step_size * direction, 0.0, 1.0)
    # x0 lies in the cube, and the ball's points between x0 and x do too: projecting last breaks neither constraint.
    return project_l2(x, x0, how.radius)


def _descend_linf(x: Array, x0: Array, grad: Array, index: Array, step: Array, how: Controls) -> Array:
    """The same with the sign of the gradient, and a cube as the ball."""
    xp = namespace(x, grad)
    x = xp.clip(x - how.step_size * xp.sign(grad), 0.0, 1.0)
    moved = x - x0
    outside = xp.abs(moved) > how.radius
    return xp.where(outside, x0 + xp.sign(moved) * xp.where(outside, how.radius, moved), x)


def _langevin(x: Array, x0: Array, grad: Array, index: Array, step: Array, how: Controls) -> Array:
    """Algorithm 3. The noise is keyed by (seed, image index, step), so it does not depend on the batch."""
    noise = normal(tuple(x.shape[1:]), key=how.key, index=index, step=step)
    return x - how.step_size * grad + how.noise * noise


#: How the iterate moves, by the kind of update.
MOVES: dict[str, Move] = {"pgd-l2": _descend_l2, "pgd-linf": _descend_linf, "sgld": _langevin}


class Update:
    """One way to move the iterate: the base of `PGD` and `SGLD`, frozen dataclasses whose values can be compared and stored."""

    steps: int
    step_size: float

    @property
    def name(self) -> str:
        """The name on the command line."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """A key of `MOVES`."""
        raise NotImplementedError

    def controls(self, *, threshold: float = math.inf, seed: int = 0) -> Controls:
        """This update's values as numpy arrays.

        Args:
            threshold: the realness at which an image stops.
            seed: of the noise, in [0, 2^64).
        """
        radius = getattr(self, "eps", None)
        values = (self.step_size, math.inf if radius is None else radius, getattr(self, "noise", 0.0), threshold)
        step_size, ball, noise, stop = (np.array(v, np.float32) for v in values)
        return Controls(step_size, ball, noise, stop, np.array(split_seed(seed), np.int64))

    def move(self, x: Array, x0: Array, grad: Array, *, index: Array, step: Array, seed: int = 0) -> Array:
        """One step: the next iterate float32 [B, C, H, W] from the iterate, the start and the objective's gradient.

        Args:
            x, x0, grad: float32 [B, C, H, W].
            index, step: int64 [B], each image's position in its set and number of steps taken; they key the noise.
            seed: of the noise.
        """
        asarray = namespace(x).asarray
        controls = Controls(*(asarray(v, device=x.device) for v in self.controls(seed=seed)))
        return MOVES[self.kind](x, x0, grad, index, step, controls)


def _check(name: str, value: float, *, least: float = 0.0, exclusive: bool = False) -> None:
    if not math.isfinite(value) or value < least or (exclusive and value == least):
        raise BadInputError(
            f"{name} must be a finite number {'above' if exclusive else 'of at least'} {least:g}, got {value}"
        )


@dataclass(frozen=True)
class PGD(Update):
    """Projected gradient descent (algorithms 1 and 2): x <- project(clamp(x - step_size * g)), g of unit length per image.

    Attributes:
        steps: number of steps, at least 0.
        step_size: length of a step: L2 for ``norm="l2"``, per pixel for ``"linf"``; the image's range is [0, 1].
        eps: radius of the ball around the input that the iterate may not leave, in the same norm; None for no ball.
        norm: ``"l2"``: g = grad / ||grad||_2; ``"linf"``: g = sign(grad).

    Raises:
        BadInputError: a value out of range.
    """

    steps: int = 15
    step_size: float = 0.1
    eps: float | None = None
    norm: str = "l2"

    def __post_init__(self) -> None:
        _check("steps", self.steps)
        _check("step size", self.step_size, exclusive=True)
        if self.eps is not None:
            _check("eps", self.eps)
        if self.norm not in ("l2", "linf"):
            raise BadInputError(f"unknown norm {self.norm!r}; choose one of l2, linf")

    @property
    def name(self) -> str:
        """``"pgd"``."""
        return "pgd"

    @property
    def kind(self) -> str:
        """``"pgd-l2"`` or ``"pgd-linf"``."""
        return f"pgd-{self.norm}"


@dataclass(frozen=True)
class SGLD(Update):
    """Stochastic gradient Langevin dynamics (algorithm 3): x <- x - step_size * grad + noise * N(0, I); one clamp at the end.

    The paper prints algorithm 3 as descent on the class logit; its text and the released code ascend, which is descent on the
    objective ``logit`` = -f_c.

    Attributes:
        steps: number of steps, at least 0.
        step_size: factor of the gradient. The released script's 0.2 is 0.002 here: it averages the logit over its batch of 100.
        noise: standard deviation of the noise added at each step, in units of the image's range [0, 1].

    Raises:
        BadInputError: a value out of range.
    """

    steps: int = 15
    step_size: float = 0.002
    noise: float = 1e-4

    def __post_init__(self) -> None:
        _check("steps", self.steps)
        _check("step size", self.step_size, exclusive=True)
        _check("noise", self.noise)

    @property
    def name(self) -> str:
        """``"sgld"``."""
        return "sgld"

    @property
    def kind(self) -> str:
        """``"sgld"``."""
        return "sgld"
