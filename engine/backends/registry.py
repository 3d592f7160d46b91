"""The engines by name: whether each can run here, why not, and how to open one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, one_line
from jboost.engine.loop.runner import Runner
from jboost.engine.system.devices import device_kind
from jboost.engine.system.machine import machine_name

from .trial import time_runners

_DEFAULT_BATCH = {"cpu": 32, "cuda": 256}


def default_batch(device: str) -> int:
    """Images in flight unless told otherwise, on the device called `device`: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``."""
    return _DEFAULT_BATCH[device_kind(device)]


@dataclass(frozen=True)
class Availability:
    """Whether an engine can run on this machine: `why` says what was found or what is missing, `remedy` what to type."""

    available: bool
    why: str
    remedy: str = ""


@dataclass(frozen=True)
class Engine:
    """An engine.

    Attributes:
        name, about: what it is called and what it is.
        probe: whether it can run on this machine.
        open: a runner for (bundle, objective, l0, resolution, device, dtype).
        why_unusable: for the same arguments and the batch size asked for (or None), why it cannot serve the run; None if it can.
    """

    name: str
    about: str
    probe: Callable[[], Availability]
    open: Callable[..., Runner]
    why_unusable: Callable[..., str | None]


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _probe_torch() -> Availability:
    version = _version("torch")
    if version is None or importlib.util.find_spec("torch") is None:
        return Availability(False, "torch is not installed", "install it: pip install torch")
    return Availability(True, f"torch {version}")


def _probe_onnx() -> Availability:
    for distribution in ("onnxruntime-gpu", "onnxruntime"):
        version = _version(distribution)
        if version is not None and importlib.util.find_spec("onnxruntime") is not None:
            return Availability(True, f"{distribution} {version}")
    return Availability(False, "onnxruntime is not installed", "install it: pip install onnxruntime")


def _in_module(module: str, name: str) -> Callable[..., Any]:
    """A function or class of one of this package's modules, imported when it is first called."""

    def call(*args: object, **options: object) -> Any:
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)(*args, **options)

    return call


def _always_usable(*args: object, **options: object) -> None:
    """The forward program serves every run."""


#: All there are; ``--engine auto`` takes the fastest that is available and that the bundle has what it needs for.
ENGINES: dict[str, Engine] = {
    "trt": Engine(
        "trt",
        "TensorRT",
        _in_module("trt.probe", "probe"),
        _in_module("trt.runner", "TrtRunner"),
        _in_module("trt.plans", "why_unusable"),
    ),
    "compile": Engine(
        "compile",
        "compiled ahead of time by AOTInductor",
        _probe_torch,
        _in_module("compiled.runner", "CompiledRunner"),
        _in_module("compiled.packages", "why_unusable"),
    ),
    "eager": Engine(
        "eager", "PyTorch autograd, the yardstick", _probe_torch, _in_module("eager", "EagerRunner"), _always_usable
    ),
    "onnx": Engine(
        "onnx",
        "ONNX Runtime",
        _probe_onnx,
        _in_module("onnx.open", "open_runner"),
        _in_module("onnx.graphs", "why_unusable"),
    ),
}


def installed(*distributions: str) -> dict[str, str | None]:
    """Version of each installed distribution; None for those that are not."""
    return {name: _version(name) for name in distributions}


def find_engine(name: str) -> Engine | None:
    """The engine called `name`; None for ``"auto"``, which is settled when the bundle and the run are known.

    Raises:
        BadInputError: unknown, or not available on this machine.
    """
    if name == "auto":
        return None
    if name not in ENGINES:
        raise BadInputError(f"unknown engine {name!r}; choose one of auto, {', '.join(ENGINES)}")
    found = ENGINES[name].probe()
    if not found.available:
        raise BadInputError(f"engine {name!r} cannot run here: {found.why}; {found.remedy}")
    return ENGINES[name]


def pick_engine(bundle: Bundle, *, batch_size: int, fixed: int | None, **run: Any) -> tuple[Runner, str]:
    """The fastest engine for a run, opened, and a text that says what was picked and why.

    Times are those that the bundle was exported with, if that was on this machine; else each engine gets a moment's trial.

    Args:
        bundle: an opened bundle.
        batch_size: images in flight, for a trial.
        fixed: the batch size that the user asked for, which rules out packages of another; None for any.
        run: objective, l0, resolution, device, dtype.

    Raises:
        BadInputError: none can run here.
    """
    passed_over: list[str] = []
    candidates: list[Engine] = []
    for engine in ENGINES.values():
        found = engine.probe()
        why = found.why if not found.available else engine.why_unusable(bundle, batch_size=fixed, **run)
        if why is None:
            candidates.append(engine)
        else:
            passed_over.append(f"\n  not {engine.name}: {why}")
    if not candidates:
        raise BadInputError("no engine can run on this machine; see what is missing with: jboost doctor")
    rest = "".join(passed_over)
    if len(candidates) == 1:
        return candidates[0].open(bundle, **run), f"engine {candidates[0].name}: the only one that can run this{rest}"
    known = _known_times(bundle, run["dtype"], run["resolution"])
    if all(engine.name in known for engine in candidates):
        times, when = {engine.name: known[engine.name] for engine in candidates}, "when the bundle was exported here"
        best = min(candidates, key=lambda engine: times[engine.name])
        runner = best.open(bundle, **run)
    else:

        def pass_over(name: str, e: Exception) -> None:
            passed_over.append(f"\n  not {name}: {type(e).__name__}: {one_line(e)}")

        runners, times = time_engines(bundle, candidates, batch_size=batch_size, on_failure=pass_over, **run)
        rest, when = "".join(passed_over), "in a trial just now"
        best_name = min(times, key=times.__getitem__, default=None)
        for name, other in runners.items():
            if name != best_name:
                other.__exit__(None, None, None)
        if best_name is None:
            raise BadInputError(f"no engine can run this:{rest}")
        runner = runners[best_name]
    ranked = sorted(times.items(), key=lambda item: item[1])
    others = ", ".join(f"{name} {ms:.3g}" for name, ms in ranked[1:])
    return runner, f"engine {ranked[0][0]}: {ranked[0][1]:.3g} ms an image-step {when} ({others}){rest}"


def time_engines(
    bundle: Bundle,
    engines: Iterable[Engine],
    *,
    batch_size: int,
    on_failure: Callable[[str, Exception], None],
    **run: Any,
) -> tuple[dict[str, Runner], dict[str, float]]:
    """Open engines for a run, and time them against each other.

    Args:
        bundle: an opened bundle.
        engines: those that can run here and that the bundle serves.
        batch_size: images in flight.
        on_failure: told of an engine that cannot be opened, or fails in its trial.
        run: objective, l0, resolution, device, dtype.

    Returns:
        The runners that were opened, which the caller closes, and milliseconds an image-step of those that did not fail; by name.
    """
    runners: dict[str, Runner] = {}
    for engine in engines:
        try:
            runners[engine.name] = engine.open(bundle, **run)
        except Exception as e:  # a backend's own; the others can still be used
            on_failure(engine.name, e)
    config, size = bundle.config, run["resolution"]
    times = time_runners(
        runners, shape=(config.in_channels, size, size), num_classes=config.num_classes, batch_size=batch_size,
        on_failure=on_failure,
    )  # fmt: skip
    return runners, times


def _known_times(bundle: Bundle, dtype: str, resolution: int) -> dict[str, float]:
    """Milliseconds an image-step by engine, measured on this machine when the bundle was exported."""
    timings = [t for t in bundle.config.timings if (t.dtype, t.resolution) == (dtype, resolution)]
    here = machine_name() if timings else ""
    return {t.engine: t.ms for t in timings if t.machine == here}
