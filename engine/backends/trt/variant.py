"""TensorRT and TensorRT-RTX: two packages with one Python API."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from jboost.engine.errors import BadInputError, one_line

#: What each is called, by the module it is imported as; the one to prefer first.
FLAVOURS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
#: What to type to get each. PyPI's ``tensorrt`` is a stub that fetches the libraries from NVIDIA's index.
INSTALL = {
    "tensorrt": "pip install --extra-index-url https://pypi.nvidia.com tensorrt",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}


@dataclass(frozen=True)
class Flavour:
    """An imported TensorRT.

    Attributes:
        name: of the module, a key of `FLAVOURS`.
        version: its own.
        trt: the module.
    """

    name: str
    version: str
    trt: Any

    def __str__(self) -> str:
        return f"{FLAVOURS[self.name]} {self.version}"

    @property
    def capabilities(self) -> tuple[str, ...]:
        """The compute capabilities that it builds for without a GPU, like ``"8.6"``; none where it needs the GPU itself."""
        known = getattr(getattr(self.trt, "ComputeCapability", None), "__members__", {})
        return tuple(f"{name[2:-1]}.{name[-1]}" for name in known if name.startswith("SM"))


def found_flavours() -> tuple[str, ...]:
    """The modules that are installed, the one to prefer first; whether they can be imported is another matter."""
    return tuple(name for name in FLAVOURS if importlib.util.find_spec(name) is not None)


def load_flavour(name: str) -> Flavour:
    """Import a flavour.

    Raises:
        BadInputError: it is not installed, or cannot be imported, as the stub that PyPI has of it.
    """
    if importlib.util.find_spec(name) is None:
        raise BadInputError(f"{FLAVOURS[name]} is not installed; install it: {INSTALL[name]}")
    try:
        trt = importlib.import_module(name)
        return Flavour(name, str(trt.__version__), trt)
    except Exception as e:  # whatever a stub or the loader of shared libraries raises
        raise BadInputError(
            f"the package {name} is installed but cannot be imported ({type(e).__name__}: {one_line(e)}); "
            f"install it again: {INSTALL[name]}"
        ) from e


def new_log(trt: Any) -> Any:
    """A ``trt.ILogger`` that prints nothing and keeps what went wrong in its list ``errors``."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(one_line(message))

    return Log()


def said(log: Any) -> str:
    """The first thing that TensorRT said was wrong, in one line: what follows it are consequences."""
    return log.errors[0] if log.errors else "it does not say why"
