"""How the iterate moves, given the gradient: PGD (algorithms 1 and 2), SGLD (algorithm 3) and other registered updates.

The code uses the array API: numpy, torch and the compiler run the same lines. The iterate is float32.

To add an update, write its move and a frozen dataclass derived from `Update`, and register the class; see `register`.
The command line, presets, summaries, reports and export read the registry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from numbers import Real
from types import MappingProxyType, NoneType
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from jboost.engine.errors import BadInputError

from .arrays import Array, namespace, per_image
from .noise import normal, split_seed

# A smaller gradient counts as zero: dividing by it would turn rounding errors into a direction.
_TINY = 1e-30


def l2_norm(v: Array) -> Array:
    """Euclidean norm per image: [B, ...] -> [B]. Scaled by the largest entry: squares neither overflow nor vanish."""
    xp = namespace(v)
    flat = xp.reshape(v, (v.shape[0], -1))
    top = xp.max(xp.abs(flat), axis=1)
    safe = xp.where(top > _TINY, top, xp.ones_like(top))
    return safe * xp.sqrt(xp.sum((flat / safe[:, None]) ** 2, axis=1))


def project_l2(x: Array, x0: Array, radius: float | Array) -> Array:
    """The point nearest to `x` in the L2 ball of `radius` around `x0`, per image."""
    xp = namespace(x, x0)
    moved = x - x0
    norm = l2_norm(moved)
    shrink = xp.where(norm > radius, radius / xp.where(norm > radius, norm, xp.ones_like(norm)), xp.ones_like(norm))
    return xp.where(per_image(norm > radius, x), x0 + moved * per_image(shrink, x), x)


class Controls(NamedTuple):
    """The numbers that a step depends on, as arrays, so one compiled step serves every step size, radius and seed.

    Attributes:
        step_size: float32, length of a step or factor of the gradient.
        radius: float32, radius of the ball around the input; infinity for no ball.
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
    # x0 and x lie in the cube, so every point between them does too: projecting last breaks neither constraint.
    return project_l2(x, x0, how.radius)


def _descend_linf(x: Array, x0: Array, grad: Array, index: Array, step: Array, how: Controls) -> Array:
    """The same with the sign of the gradient, and a cube as the ball."""
    xp = namespace(x, grad)
    x = xp.clip(x - how.step_size * xp.sign(grad), 0.0, 1.0)
    moved = x - x0
    outside = xp.abs(moved) > how.radius
    return xp.where(outside, x0 + xp.sign(moved) * xp.where(outside, how.radius, moved), x)


def _langevin(x: Array, x0: Array, grad: Array, index: Array, step: Array, how: Controls) -> Array:
    """Algorithm 3. The noise is keyed by (seed, image number, step), so it does not depend on the batch."""
    noise = normal(tuple(x.shape[1:]), key=how.key, index=index, step=step)
    return x - how.step_size * grad + how.noise * noise


#: How the iterate moves, by update kind. `register` fills it.
MOVES: dict[str, Move] = {}

#: The norm of the ball whose radius is `Strengths.radius`, by update kind; see `Update.balls`. `register` fills it.
BALLS: dict[str, str] = {}

#: The updates by name on the command line, the default first. `register` fills it.
UPDATES: dict[str, type[Update]] = {}

#: Names that an update's field must not have: `Update`, `jboost boost` or a summary uses them for something else.
RESERVED = frozenset({
    "name", "kind", "moves", "balls", "options", "strengths", "controls", "move", "scales_with_gradient",
    "step_size_for",
    "samples", "output", "bundle", "engine", "dtype", "device", "batch_size", "preset", "update", "objective", "early_stop",
    "no_early_stop", "l0", "seed", "resume", "grid", "snapshots", "run_file", "run", "json_file", "json", "debug", "trust_code",
    "help", "images_key", "labels_key", "resize", "background", "class_folders", "sources", "shard", "shards", "ranges", "devices",
    "on", "address", "workers", "gpus_per_worker", "allow_mixed",
    "images", "steps_used", "stopped_early", "seconds", "images_per_second", "realness_before", "realness_after",
    "accuracy_before", "accuracy_after", "rounding", "l2_moved", "fallbacks", "unchanged_after_failure", "labels", "peak_memory",
    "redone", "lossy", "engines_failed", "not_finite", "not_finite_at", "unmoved",
    "first_step", "straightness",
})  # fmt: skip


@dataclass(frozen=True)
class Option:
    """The description of an update's field, for its command-line option, its check and a report.

    Attributes:
        help: the help text, in lower case and without a full stop. It may be empty if `choices` say enough.
        least: the smallest number allowed; None for no limit. A number must always be finite.
        exclusive: whether `least` itself is too small.
        choices: the words allowed; empty for a number.
        shown: how a report writes a value, as a format string such as ``"within {:g}"``; if empty, a report writes the
            field's name and the value.
    """

    help: str = ""
    least: float | None = None
    exclusive: bool = False
    choices: tuple[str, ...] = ()
    shown: str = ""


class Field(NamedTuple):
    """A field of a registered update: its `option`, its `type` without None, and its `default`."""

    option: Option
    type: type
    default: Any


class Strengths(NamedTuple):
    """The numbers of `Controls` that an update gives."""

    step_size: float
    radius: float = math.inf
    noise: float = 0.0


class Update:
    """One way to move the iterate: the base of `PGD`, `SGLD` and every other registered update.

    An update is a frozen dataclass, so its values can be compared and stored. `register` lists what it must define.

    Attributes:
        name: the name on the command line; `register` sets it.
        options: the fields by name; `register` sets it.
        moves: how the iterate moves, by update kind. Each kind has its own compiled step and its own CUDA kernel.
        balls: ``"l2"`` or ``"linf"`` by update kind, if the radius is that of a ball around the input; the rounded image
            then stays inside too.
        scales_with_gradient: whether a step without its noise is `step_size` x the gradient, so that ``--step-size auto`` can
            set its length; see `jboost.engine.method.auto_step`.
        steps: number of steps.
        step_size: length of a step or factor of the gradient.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Field]]
    moves: ClassVar[Mapping[str, Move]]
    balls: ClassVar[Mapping[str, str]] = MappingProxyType({})
    scales_with_gradient: ClassVar[bool] = False
    steps: int
    step_size: float

    def __post_init__(self) -> None:
        for name, field in self.options.items():
            _check(name, getattr(self, name), field)

    @property
    def kind(self) -> str:
        """The key of `moves` for these values. An update with several kinds overrides this."""
        (kind,) = self.moves
        return kind

    def strengths(self) -> Strengths:
        """The numbers for the move. An update that uses a radius or noise overrides this."""
        return Strengths(self.step_size)

    def step_size_for(self, length: float, values: int) -> float | None:
        """The step size whose steps have a length, if that depends on no gradient; else None. ``--step-size auto`` needs it.

        Args:
            length: root mean square of an image's changes before clamping, in units of the image's range [0, 1].
            values: the number of an image's values.
        """
        return None

    def controls(self, *, threshold: float = math.inf, seed: int = 0) -> Controls:
        """This update's values as numpy arrays.

        Args:
            threshold: the realness at which an image stops; infinity for no early stopping.
            seed: the noise's seed, in [0, 2^64).
        """
        step_size, ball, noise, stop = (np.array(v, np.float32) for v in (*self.strengths(), threshold))
        return Controls(step_size, ball, noise, stop, np.array(split_seed(seed), np.int64))

    def move(self, x: Array, x0: Array, grad: Array, *, index: Array, step: Array, seed: int = 0) -> Array:
        """One step: the next iterate float32 [B, C, H, W] from the iterate, the start and the objective's gradient.

        Args:
            x, x0, grad: float32 [B, C, H, W].
            index, step: int64 [B], each image's number (see `noise.normal`) and steps taken; they key the noise.
            seed: the noise's seed.
        """
        asarray = namespace(x).asarray
        controls = Controls(*(asarray(v, device=x.device) for v in self.controls(seed=seed)))
        return MOVES[self.kind](x, x0, grad, index, step, controls)


_Registered = TypeVar("_Registered", bound=Update)


def register(name: str) -> Callable[[type[_Registered]], type[_Registered]]:
    """A class decorator that registers an update for the command line, the runs, the export and the reports.

    The class derives from `Update` and is a frozen dataclass. Each field has a default and, in `Annotated`, an
    `Option`; ``steps`` and ``step_size`` are among the fields. `moves` gives a function for each kind. The class
    overrides `Update.kind` if it has several kinds, and `Update.strengths` if it uses a radius or noise::

        @register("signed")
        @dataclass(frozen=True)
        class SignedLangevin(Update):
            steps: Annotated[int, Option("maximum number of steps per image", least=0)] = 15
            step_size: Annotated[float, Option("change of a pixel in a step", least=0, exclusive=True)] = 0.01
            temperature: Annotated[float, Option("temperature of the noise", least=0)] = 0.0
            moves: ClassVar = {"signed": move}

            def strengths(self) -> Strengths:
                return Strengths(self.step_size, noise=math.sqrt(2 * self.step_size * self.temperature))

    ``onnx`` and ``trt`` on a GPU need a CUDA kernel for each kind in ``jboost/engine/backends/cuda/kernels.cu``, called
    ``jboost_step_`` and the kind, with underscores for hyphens.

    Args:
        name: the name on the command line: lower-case words and digits with hyphens between, as for kinds.

    Raises:
        ValueError: the class lacks something, or a name is taken.
    """

    def add(update: type[_Registered]) -> type[_Registered]:
        if not issubclass(update, Update):
            raise ValueError(f"{update.__name__} does not derive from Update")
        options = _options(update)
        if not update.moves or (len(update.moves) > 1 and update.kind is Update.kind):
            raise ValueError(f"{update.__name__} has no moves, or several and no `kind` that chooses one")
        if not update.balls.items() <= {(kind, norm) for kind in update.moves for norm in ("l2", "linf")}:
            raise ValueError(f"{update.__name__}.balls must map kinds of its moves to l2 or linf")
        for word in (name, *update.moves):
            if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", word):
                raise ValueError(
                    f"{update.__name__}: {word!r} must be lower-case words and digits with hyphens between"
                )
        if taken := ({name} & UPDATES.keys()) | (update.moves.keys() & MOVES.keys()):
            raise ValueError(f"{update.__name__}: another update has the name {', '.join(sorted(taken))}")
        update.name, update.options = name, MappingProxyType(options)
        UPDATES[name] = update
        MOVES.update(update.moves)
        BALLS.update(update.balls)
        return update

    return add


def _options(update: type[Update]) -> dict[str, Field]:
    """The fields of a class that `register` is to add."""
    hints, found = get_type_hints(update, include_extras=True), {}
    for field in fields(update):  # type: ignore[arg-type]
        hint, *extras = get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else (None,)
        option = next((extra for extra in extras if isinstance(extra, Option)), None)
        if option is None or field.default is MISSING:
            raise ValueError(f"{update.__name__}.{field.name} needs an Option in Annotated, and a default")
        if field.name in RESERVED:
            raise ValueError(f"{update.__name__}.{field.name} needs another name: this one is reserved")
        value_type = next((t for t in get_args(hint) if t is not NoneType), hint)
        if any(other.options[field.name].type is not value_type for other in owners(field.name).values()):
            raise ValueError(f"{update.__name__}.{field.name} has a different type in another update")
        found[field.name] = Field(option, value_type, field.default)
    if missing := {"steps", "step_size"} - found.keys():
        raise ValueError(f"{update.__name__} has no field {', '.join(sorted(missing))}")
    return found


def owners(field: str) -> dict[str, type[Update]]:
    """The registered updates that have a field, by name."""
    return {name: update for name, update in UPDATES.items() if field in update.options}


def find_update(name: str) -> type[Update]:
    """The registered update called `name`.

    Raises:
        BadInputError: there is none.
    """
    if name not in UPDATES:
        raise BadInputError(f"unknown update {name!r}; choose one of {', '.join(UPDATES)}")
    return UPDATES[name]


def _check(name: str, value: Any, field: Field) -> None:
    option, auto = field.option, (name, value) == ("step_size", "auto")
    name = name.replace("_", " ")
    if value is None and field.default is None:
        return
    if option.choices:
        if value not in option.choices:
            raise BadInputError(f"unknown {name} {value!r}; choose one of {', '.join(option.choices)}")
        return
    if field.type not in (int, float):
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        hint = '; pass step_size="auto" beside the update, not to it' if auto else ""
        raise BadInputError(f"{name} must be a number, got {value!r}{hint}")
    least = -math.inf if option.least is None else option.least
    if not math.isfinite(value) or value < least or (option.exclusive and value == least):
        limit = "" if option.least is None else f" {'above' if option.exclusive else 'of at least'} {least:g}"
        raise BadInputError(f"{name} must be a finite number{limit}, got {value}")


@register("pgd")
@dataclass(frozen=True)
class PGD(Update):
    """Projected gradient descent (algorithms 1 and 2): x <- project(clamp(x - step_size * g)); `norm` defines g.

    Attributes:
        steps: number of steps, at least 0.
        step_size: length of a step: L2 for ``norm="l2"``, per pixel for ``"linf"``; the image's range is [0, 1].
        eps: radius of the ball around the input that contains the iterate and the rounded image, in the same norm; None
            for no ball.
        norm: ``"l2"``: g = grad / ||grad||_2; ``"linf"``: g = sign(grad).

    Raises:
        BadInputError: a value out of range.
    """

    steps: Annotated[int, Option("maximum number of steps per image", least=0)] = 15
    step_size: Annotated[float, Option("length of a step", least=0, exclusive=True)] = 0.1
    eps: Annotated[float | None, Option("radius of the ball around the input", least=0, shown="within {:g}")] = None
    norm: Annotated[str, Option(choices=("l2", "linf"), shown="{}")] = "l2"
    moves: ClassVar = {"pgd-l2": _descend_l2, "pgd-linf": _descend_linf}
    balls: ClassVar = {"pgd-l2": "l2", "pgd-linf": "linf"}

    @property
    def kind(self) -> str:
        """``"pgd-l2"`` or ``"pgd-linf"``."""
        return f"pgd-{self.norm}"

    def strengths(self) -> Strengths:
        """The step size, and `eps` as the radius."""
        return Strengths(self.step_size, radius=math.inf if self.eps is None else self.eps)

    def step_size_for(self, length: float, values: int) -> float:
        """The length in `norm`."""
        return length if self.norm == "linf" else length * math.sqrt(values)


@register("sgld")
@dataclass(frozen=True)
class SGLD(Update):
    """Stochastic gradient Langevin dynamics (algorithm 3): x <- x - step_size * grad + noise * N(0, I); one last clamp.

    The paper prints algorithm 3 as descent on the class logit. Its text and the released code ascend, which is descent
    on the objective ``logit`` = -f_c.

    Attributes:
        steps: number of steps, at least 0.
        step_size: factor of the gradient. The released script's 0.2 is 0.002 here: the script averages the logit over
            its batch of 100.
        noise: standard deviation of the noise added at each step, in units of the image's range [0, 1].

    Raises:
        BadInputError: a value out of range.
    """

    steps: Annotated[int, Option("maximum number of steps per image", least=0)] = 15
    step_size: Annotated[float, Option("factor of the gradient", least=0, exclusive=True)] = 0.002
    noise: Annotated[float, Option("standard deviation of a step's noise", least=0)] = 1e-4
    moves: ClassVar = {"sgld": _langevin}
    scales_with_gradient: ClassVar = True

    def strengths(self) -> Strengths:
        """The step size and the noise."""
        return Strengths(self.step_size, noise=self.noise)
