"""How the iterate moves, given the gradient: PGD (algorithms 1 and 2) and SGLD (algorithm 3).

Written against the array API: numpy, torch and the compiler run the same lines. The iterate is float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from .arrays import Array, namespace, per_image
from .errors import BadInputError
from .noise import normal

# Below this a gradient is zero: dividing by it would turn rounding into direction.
_TINY = 1e-30


def l2_norm(v: Array) -> Array:
    """Euclidean norm of each image: [B, ...] -> [B]. Scaled by the largest entry, so that squares neither overflow nor vanish."""
    xp = namespace(v)
    flat = xp.reshape(v, (v.shape[0], -1))
    top = xp.max(xp.abs(flat), axis=1)
    safe = xp.where(top > _TINY, top, xp.ones_like(top))
    return safe * xp.sqrt(xp.sum((flat / safe[:, None]) ** 2, axis=1))


def project_l2(x: Array, x0: Array, radius: float) -> Array:
    """The point of the L2 ball of `radius` around `x0` that is nearest to `x`, image by image."""
    xp = namespace(x, x0)
    moved = x - x0
    norm = l2_norm(moved)
    shrink = xp.where(norm > radius, radius / xp.where(norm > radius, norm, xp.ones_like(norm)), xp.ones_like(norm))
    return xp.where(per_image(norm > radius, x), x0 + moved * per_image(shrink, x), x)


class Update(Protocol):
    """One way to move the iterate. Frozen dataclasses, so that a run's settings can be compared and stored."""

    @property
    def name(self) -> str:
        """The name on the command line."""
        ...

    @property
    def steps(self) -> int:
        """How many steps an image takes at most."""
        ...

    @property
    def step_size(self) -> float:
        """Length of a step, or factor of the gradient."""
        ...

    def move(self, x: Array, x0: Array, grad: Array, *, seed: int, index: Array, step: int | Array) -> Array:
        """One step: the next iterate float32 [B, C, H, W] from the iterate, the start and the objective's gradient."""
        ...

    def finish(self, x: Array) -> Array:
        """What is done to the last iterate."""
        ...


def _check(name: str, value: float, *, least: float = 0.0, exclusive: bool = False) -> None:
    if not math.isfinite(value) or value < least or (exclusive and value == least):
        raise BadInputError(
            f"{name} must be a finite number {'above' if exclusive else 'of at least'} {least:g}, got {value}"
        )


@dataclass(frozen=True)
class PGD:
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

    def move(self, x: Array, x0: Array, grad: Array, *, seed: int, index: Array, step: int | Array) -> Array:
        """One step of algorithm 1: normalise, descend, clamp to [0, 1], project onto the ball around `x0`."""
        xp = namespace(x, grad)
        if self.norm == "linf":
            x = xp.clip(x - self.step_size * xp.sign(grad), 0.0, 1.0)
            return x if self.eps is None else x0 + xp.clip(x - x0, -self.eps, self.eps)
        norm = l2_norm(grad)
        direction = grad / per_image(xp.where(norm > _TINY, norm, xp.ones_like(norm)), grad)
        x = xp.clip(x - self.step_size * direction, 0.0, 1.0)
        # x0 lies in the cube, and the ball's points between x0 and x do too: projecting last breaks neither constraint.
        return x if self.eps is None else project_l2(x, x0, self.eps)

    def finish(self, x: Array) -> Array:
        """Nothing is left to do."""
        return x


@dataclass(frozen=True)
class SGLD:
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

    def move(self, x: Array, x0: Array, grad: Array, *, seed: int, index: Array, step: int | Array) -> Array:
        """One step of algorithm 3. The noise is keyed by (seed, image index, step), so it does not depend on the batch."""
        x = x - self.step_size * grad
        if self.noise > 0:
            x = x + self.noise * normal(tuple(x.shape[1:]), seed=seed, index=index, step=step)
        return x

    def finish(self, x: Array) -> Array:
        """Clamp to [0, 1]."""
        return namespace(x).clip(x, 0.0, 1.0)
