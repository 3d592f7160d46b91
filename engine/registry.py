"""The engines by name: whether each can run here, why not, and how to open one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

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
    """An engine: what it is, the probe that says whether it can run here, and the function that opens a runner."""

    name: str
    about: str
    probe: Callable[[], Availability]
    open: Callable[..., Runner] | None = None


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


def _open_eager(bundle: Bundle, **options: object) -> Runner:
    from .eager import EagerRunner

    return EagerRunner(bundle, **options)  # type: ignore[arg-type]


def _probe_onnx() -> Availability:
    for distribution in ("onnxruntime-gpu", "onnxruntime"):
        version = _version(distribution)
        if version is not None and importlib.util.find_spec("onnxruntime") is not None:
            return Availability(True, f"{distribution} {version}, on the CPU")
    return Availability(False, "onnxruntime is not installed", "install it: pip install onnxruntime")


def _open_onnx(bundle: Bundle, **options: object) -> Runner:
    from .onnx import OnnxRunner

    return OnnxRunner(bundle, **options)  # type: ignore[arg-type]


def _probe_absent() -> Availability:
    return Availability(False, "not part of this version of jboost", "use --engine eager")


#: Ordered by preference for ``--engine auto``: the first that is available.
ENGINES: dict[str, Engine] = {
    "trt": Engine("trt", "TensorRT", _probe_absent),
    "compile": Engine("compile", "torch.compile, ahead of time", _probe_absent),
    "eager": Engine("eager", "PyTorch autograd, the yardstick", _probe_torch, _open_eager),
    "onnx": Engine("onnx", "ONNX Runtime", _probe_onnx, _open_onnx),
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


def pick_engine(name: str) -> tuple[Engine, str]:
    """The engine called `name`, or for ``"auto"`` the best one here; and one line that says what was picked and why.

    Raises:
        BadInputError: unknown, or not available on this machine.
    """
    if name == "auto":
        for engine in ENGINES.values():
            found = engine.probe()
            if found.available:
                return (
                    engine,
                    f"engine {engine.name}: {engine.about} ({found.why}); the first of {', '.join(ENGINES)} here",
                )
        raise BadInputError("no engine can run on this machine; see what is missing with: jboost doctor")
    if name not in ENGINES:
        raise BadInputError(f"unknown engine {name!r}; choose one of auto, {', '.join(ENGINES)}")
    engine = ENGINES[name]
    found = engine.probe()
    if not found.available:
        raise BadInputError(f"engine {name!r} cannot run here: {found.why}; {found.remedy}")
    return engine, f"engine {name}: {engine.about} ({found.why})"


def open_runner(
    engine: Engine, bundle: Bundle, *, objective: str, l0: float | None, resolution: int, device: str, dtype: str
) -> Runner:
    """A runner of `engine` for `bundle`, `objective` and images of `resolution` pixels."""
    assert engine.open is not None
    return engine.open(bundle, objective=objective, l0=l0, resolution=resolution, device=device, dtype=dtype)
