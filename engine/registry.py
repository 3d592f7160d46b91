"""The engines by name: whether each can run here, why not, and how to open one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .bundle import Bundle
from .errors import BadInputError
from .runner import Runner

DTYPES = ("fp32", "fp16", "bf16")


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
            return Availability(True, f"{distribution} {version}, on the CPU")
    return Availability(False, "onnxruntime is not installed", "install it: pip install onnxruntime")


def _probe_absent() -> Availability:
    return Availability(False, "not part of this version of jboost", "use --engine compile, onnx or eager")


def _in_module(module: str, name: str) -> Callable[..., Any]:
    """A function or class of one of this package's modules, imported when it is first called."""

    def call(*args: object, **options: object) -> Any:
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)(*args, **options)

    return call


def _never_opened(*args: object, **options: object) -> Runner:
    raise AssertionError("an engine whose probe says no is not opened")


def _always_usable(*args: object, **options: object) -> None:
    """The forward program serves every run."""


#: Ordered by preference for ``--engine auto``: the first that is available and that the bundle has what it needs for.
ENGINES: dict[str, Engine] = {
    "trt": Engine("trt", "TensorRT", _probe_absent, _never_opened, _always_usable),
    "compile": Engine(
        "compile",
        "compiled ahead of time by AOTInductor",
        _probe_torch,
        _in_module("compiled", "CompiledRunner"),
        _in_module("compiled", "why_unusable"),
    ),
    "eager": Engine(
        "eager", "PyTorch autograd, the yardstick", _probe_torch, _in_module("eager", "EagerRunner"), _always_usable
    ),
    "onnx": Engine(
        "onnx", "ONNX Runtime", _probe_onnx, _in_module("onnx", "OnnxRunner"), _in_module("onnx", "why_unusable")
    ),
}


def installed(*distributions: str) -> dict[str, str | None]:
    """Version of each installed distribution; None for those that are not."""
    return {name: _version(name) for name in distributions}


def find_gpu() -> str | None:
    """What torch says of the first CUDA device; None where there is no torch or no device."""
    if not _probe_torch().available:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(0)
    return f"{torch.cuda.get_device_name(0)}, compute capability {major}.{minor}, CUDA {torch.version.cuda}"


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


def pick_engine(bundle: Bundle, *, batch_size: int | None, **run: Any) -> tuple[Engine, str]:
    """The best engine for a run (objective, l0, resolution, device, dtype), and a text that says what was picked and why.

    Raises:
        BadInputError: none can run here.
    """
    passed_over: list[tuple[str, str]] = []
    for engine in ENGINES.values():
        found = engine.probe()
        why = found.why if not found.available else engine.why_unusable(bundle, batch_size=batch_size, **run)
        if why is None:
            line = f"engine {engine.name}: {engine.about} ({found.why})"
            return engine, line + "".join(f"\n  not {name}: {reason}" for name, reason in passed_over)
        passed_over.append((engine.name, why))
    raise BadInputError("no engine can run on this machine; see what is missing with: jboost doctor")
