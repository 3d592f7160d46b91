"""What competes: plain PyTorch as the yardstick, and every engine and dtype that the bundle serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jboost.engine.backends.array_runner import to_uint8
from jboost.engine.backends.registry import ENGINES
from jboost.engine.backends.trial import endless_flight
from jboost.engine.bundle import Bundle, BundleConfig
from jboost.engine.errors import BadInputError
from jboost.engine.system.devices import device_kind
from jboost.engine.system.dtypes import DTYPES

AUTOGRAD, TF32, CHANNELS_LAST, TORCH_COMPILE = "autograd", "autograd-tf32", "autograd-nhwc", "torch.compile"
BASELINES = {
    AUTOGRAD: "eager PyTorch: forward pass and torch.autograd.grad",
    TF32: "the same with TF32 allowed",
    CHANNELS_LAST: "the same under autocast, channels last",
    TORCH_COMPILE: "the same under torch.compile: as it comes on a CPU, max-autotune on CUDA",
}
ABOUT = BASELINES | {name: engine.about for name, engine in ENGINES.items()}


@dataclass(frozen=True)
class Work:
    """What every contestant computes; plain values, so that a process of its own can be told.

    Attributes:
        bundle: the bundle's folder.
        objective: name of the objective.
        l0: mean realness of real images; None where the bundle does not know it.
        resolution: image size in pixels.
        batch_size: images a call.
        device: torch device string.
    """

    bundle: str
    objective: str
    l0: float | None
    resolution: int
    batch_size: int
    device: str

    def inputs(self, config: BundleConfig) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Images float32 [B, C, H, W], uniform in [0, 1], and classes int64 [B]; the same at every call."""
        rng = np.random.default_rng(0)
        shape = (self.batch_size, config.in_channels, self.resolution, self.resolution)
        return rng.random(shape, dtype=np.float32), rng.integers(0, config.num_classes, self.batch_size)


@dataclass(frozen=True)
class Contestant:
    """One way to compute the gradient: `name` is an engine's or one of `BASELINES`, `dtype` the network's."""

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


#: What everything is compared with.
YARDSTICK = Contestant(AUTOGRAD, "fp32")


@dataclass(frozen=True)
class Skipped:
    """What does not compete, and why; `dtype` of None stands for all."""

    name: str
    dtype: str | None
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def check_names(names: Sequence[str] | None, known: Sequence[str], what: str) -> tuple[str, ...] | None:
    """`names` without repetitions; None for None.

    Raises:
        BadInputError: one of them is not in `known`, or there is none.
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
    """float32 and the dtypes that the bundle has gradient graphs of."""
    has = {a.dtype for a in bundle.config.artefacts.values() if a.objective is not None} | {"fp32"}
    return tuple(dtype for dtype in DTYPES if dtype in has)


def packaged_batch(bundle: Bundle, objective: str, resolution: int, dtypes: Sequence[str]) -> int | None:
    """The batch size of the bundle's compiled packages for this work; None where it has none."""
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
    """Who competes and who does not: the yardstick, what else a user of plain PyTorch may try, then the engines in every dtype.

    Args:
        bundle: what the engines run.
        work: what they compute.
        engines: names; None for all.
        dtypes: of the network.
        torch_compile: whether plain ``torch.compile`` competes, in float32 and, if among `dtypes`, bf16.
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
            why = engine.why_unusable(bundle, batch_size=work.batch_size, **_run(work, dtype))
            if why is None:
                field.append(Contestant(name, dtype))
            else:
                skipped.append(Skipped(name, dtype, why))
    return field, skipped


class Entrant:
    """A contestant, opened, with the inputs on its device.

    Attributes:
        step: queues what is timed: one gradient of the whole batch; on CUDA an engine's whole step, gradient and update.

    Args:
        contestant: which.
        work: what it computes.

    Raises:
        BadInputError: what it needs of the bundle is missing or damaged.
    """

    def __init__(self, contestant: Contestant, work: Work):
        bundle = Bundle(work.bundle)
        self._runner: Any  # a Runner or a baseline
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
            self._runner = ENGINES[contestant.name].open(bundle, **_run(work, contestant.dtype))
        self._bare = contestant.kind == "baseline"
        x, y = work.inputs(bundle.config)
        self._inputs = self._runner.put(x), self._runner.put(y)
        self.step: Callable[[], object] = self._gradient
        if contestant.kind == "engine" and device_kind(work.device) == "cuda":
            # There an engine's step is one graph, update and all.
            self.step = endless_flight(self._runner, to_uint8(x), y).step

    def _gradient(self) -> Any:
        result = self._runner.gradient(*self._inputs)
        return result if self._bare else result.grad

    def gradient(self) -> np.ndarray[Any, Any]:
        """One gradient as numpy."""
        return np.array(self._runner.get(self._gradient()))

    def close(self) -> None:
        """Free the backend's memory."""
        self._runner.__exit__(None, None, None)


def _run(work: Work, dtype: str) -> dict[str, Any]:
    """What an engine is asked for."""
    return {
        "objective": work.objective,
        "l0": work.l0,
        "resolution": work.resolution,
        "device": work.device,
        "dtype": dtype,
    }
