"""Contestants: plain PyTorch as the yardstick, and every engine and dtype that the bundle supports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, cast

import numpy as np

from jboost.engine.backends.array_runner import to_uint8
from jboost.engine.backends.registry import ENGINES
from jboost.engine.backends.request import RunRequest
from jboost.engine.backends.trial import endless_flight
from jboost.engine.bundle import Bundle, BundleConfig
from jboost.engine.errors import BadInputError
from jboost.engine.loop.flight import Flight
from jboost.engine.loop.pace import best_distance, measure_costs, relative_time
from jboost.engine.loop.runner import Runner
from jboost.engine.system.devices import device_kind
from jboost.engine.system.dtypes import DTYPES
from jboost.opening import open_bundle

AUTOGRAD, TF32, CHANNELS_LAST, TORCH_COMPILE = "autograd", "autograd-tf32", "autograd-nhwc", "torch.compile"
BASELINES = {
    AUTOGRAD: "eager PyTorch: forward pass and torch.autograd.grad",
    TF32: "eager PyTorch with TF32 allowed",
    CHANNELS_LAST: "eager PyTorch under autocast, channels last",
    TORCH_COMPILE: "PyTorch under torch.compile: default mode on a CPU, max-autotune on CUDA",
}
ABOUT = BASELINES | {name: engine.about for name, engine in ENGINES.items()}


@dataclass(frozen=True)
class Work:
    """The computation of every contestant, as plain values that another process can receive.

    Attributes:
        bundle: the bundle's folder.
        objective: name of the objective.
        l0: mean realness of real images; None if the bundle does not hold it.
        resolution: image size in pixels.
        batch_size: images per call.
        device: torch device string.
        trust_code: run the bundle's code, whoever made it.
    """

    bundle: str
    objective: str
    l0: float | None
    resolution: int
    batch_size: int
    device: str
    trust_code: bool = False

    def open(self) -> Bundle:
        """Open the bundle."""
        return open_bundle(self.bundle, trust_code=self.trust_code)

    def request(self, dtype: str) -> RunRequest:
        """Return the run request for an engine, with the network in `dtype`."""
        return RunRequest(self.objective, self.l0, self.resolution, self.device, dtype, self.batch_size)

    def inputs(self, config: BundleConfig) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Return images float32 [B, C, H, W], uniform in [0, 1], and classes int64 [B]; the same at every call."""
        rng = np.random.default_rng(0)
        shape = (self.batch_size, config.in_channels, self.resolution, self.resolution)
        return rng.random(shape, dtype=np.float32), rng.integers(0, config.num_classes, self.batch_size)


@dataclass(frozen=True)
class Contestant:
    """One way to compute the gradient: `name` is an engine or a key of `BASELINES`, `dtype` the network's precision."""

    name: str
    dtype: str

    @property
    def label(self) -> str:
        """Name and dtype."""
        return f"{self.name} {self.dtype}"

    @property
    def kind(self) -> str:
        """``"baseline"`` or ``"engine"``."""
        return "baseline" if self.name in BASELINES else "engine"


#: The contestant that all others are compared with.
YARDSTICK = Contestant(AUTOGRAD, "fp32")


@dataclass(frozen=True)
class Skipped:
    """A contestant that does not run, and why; `dtype` None means every dtype."""

    name: str
    dtype: str | None
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def check_names(names: Sequence[str] | None, known: Sequence[str], what: str) -> tuple[str, ...] | None:
    """Return `names` without repetitions; None for None.

    Raises:
        BadInputError: a name is not in `known`, or `names` is empty.
    """
    if names is None:
        return None
    for name in names:
        if name not in known:
            raise BadInputError(f"unknown {what} {name!r}; choose from {', '.join(known)}")
    if not names:
        raise BadInputError(f"no {what} given; choose from {', '.join(known)}")
    return tuple(dict.fromkeys(names))


def served_dtypes(bundle: Bundle) -> tuple[str, ...]:
    """Return float32 and the dtypes of the bundle's gradient graphs."""
    has = {a.dtype for a in bundle.config.artefacts.values() if a.objective is not None} | {"fp32"}
    return tuple(dtype for dtype in DTYPES if dtype in has)


def packaged_batch(bundle: Bundle, objective: str, resolution: int, dtypes: Sequence[str]) -> int | None:
    """Return the fixed batch size of the bundle's gradient artefacts for this work; None if it has none."""
    wanted = [
        a.batch_size
        for dtype in dtypes
        for a in bundle.config.artefacts.values()
        if (a.objective, a.resolution, a.dtype) == (objective, resolution, dtype) and a.batch_size is not None
    ]
    return wanted[0] if wanted else None


def line_up(
    bundle: Bundle, work: Work, *, engines: Sequence[str] | None, dtypes: Sequence[str], torch_compile: bool
) -> tuple[list[Contestant], list[Skipped]]:
    """Return the contestants and the skipped ones: the yardstick, other baselines, then the engines in every dtype.

    Args:
        bundle: the bundle that the engines run.
        work: the computation.
        engines: names of engines; None for all.
        dtypes: precisions of the network.
        torch_compile: whether plain ``torch.compile`` competes, in float32 and in each half precision of `dtypes`.
    """
    from .baselines import why_no_torch_compile

    field, skipped = [YARDSTICK], []
    half = [dtype for dtype in dtypes if dtype != "fp32"]
    if device_kind(work.device) == "cuda":
        field += [Contestant(TF32, "fp32"), *(Contestant(CHANNELS_LAST, dtype) for dtype in half)]
    if torch_compile:
        why = why_no_torch_compile(work.device)
        if why is None:
            field += [Contestant(TORCH_COMPILE, dtype) for dtype in ("fp32", *half)]
        else:
            skipped.append(Skipped(TORCH_COMPILE, None, why))
    for name in ENGINES if engines is None else engines:
        engine = ENGINES[name]
        found = engine.probe()
        if not found.available:
            skipped.append(Skipped(name, None, f"{found.why}; {found.remedy}"))
            continue
        for dtype in dtypes:
            why = engine.why_unusable(bundle, work.request(dtype))
            if why is None:
                field.append(Contestant(name, dtype))
            else:
                skipped.append(Skipped(name, dtype, why))
    return field, skipped


class GradientRunner(Protocol):
    """What the bench needs of an engine's runner beyond the loop's `Runner`, and of a baseline: single gradients."""

    def __exit__(self, *exc: object) -> None:
        """Free the backend's memory."""
        ...

    def put(self, array: np.ndarray[Any, Any]) -> Any:
        """`array` on the device."""
        ...

    def get(self, array: Any) -> np.ndarray[Any, Any]:
        """An array on the device as numpy."""
        ...

    def gradient(self, x: Any, y: Any) -> Any:
        """The objective's gradient: an engine's as `jboost.engine.method.step.Gradient`, a baseline's as an array."""
        ...


class Entrant:
    """An opened contestant, with the inputs on its device.

    Attributes:
        step: queues the timed work: one gradient of the whole batch; for engines on CUDA, a whole step with its update.

    Args:
        contestant: the contestant to open.
        work: the computation.

    Raises:
        BadInputError: a file of the bundle that the contestant needs is missing or damaged.
    """

    def __init__(self, contestant: Contestant, work: Work):
        bundle = work.open()
        self._runner: GradientRunner
        engine: Runner | None = None
        if contestant.kind == "baseline":
            from .baselines import Autograd

            self._runner = Autograd(
                bundle,
                objective=work.objective,
                l0=work.l0,
                device=work.device,
                dtype=contestant.dtype,
                compiled=contestant.name == TORCH_COMPILE,
                tf32=contestant.name == TF32,
                channels_last=contestant.name == CHANNELS_LAST,
            )
        else:
            engine = ENGINES[contestant.name].open(bundle, work.request(contestant.dtype))
            self._runner = cast(GradientRunner, engine)
        self._bare = engine is None
        self._plain_autograd = self._bare and contestant.name != TORCH_COMPILE
        x, y = work.inputs(bundle.config)
        self._inputs = self._runner.put(x), self._runner.put(y)
        self.step: Callable[[], object] = self._gradient
        self._flight: Flight | None = None
        if engine is not None and device_kind(work.device) == "cuda":
            # On CUDA, an engine's step with its update is one graph.
            self._images = to_uint8(x), y
            self._flight = endless_flight(engine, *self._images)
            self.step = self._flight.step

    def _gradient(self) -> Any:
        result = self._runner.gradient(*self._inputs)
        return result if self._bare else result.grad

    def gradient(self) -> np.ndarray[Any, Any]:
        """Compute one gradient as numpy."""
        if not self._plain_autograd:
            return np.array(self._runner.get(self._gradient()))
        from jboost.engine.backends.batch_of_one import at_least_two

        # The timed steps are plain autograd, wrong or not; what others are compared with must be right.
        x, y = map(at_least_two, self._inputs)
        return np.array(self._runner.get(self._runner.gradient(x, y)))[: len(self._inputs[0])]

    def early_stopping(self, steps: int) -> dict[str, Any] | None:
        """What early stopping costs beside its steps: the row status and the exchange of images, where they are measured.

        Args:
            steps: the most steps of an image; images are taken to need 0.3 of them on average.

        Returns:
            The result's entry of that name; None without a flight on a GPU.
        """
        if self._flight is None:
            return None
        images, y = self._images
        mean = max(0.3 * steps, 1.0)
        costs = measure_costs(self._flight, images, y, leaving=max(1, round(len(y) / mean)))
        best = best_distance(costs, mean)
        return {
            "mean_steps": mean,
            "status_every": best.steps,
            "waits": best.fresh,
            "relative_time": relative_time(costs, mean, best),
        }

    def close(self) -> None:
        """Free the backend's memory."""
        self._runner.__exit__(None, None, None)
