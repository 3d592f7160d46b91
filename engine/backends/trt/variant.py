"""The two variants of TensorRT: TensorRT and TensorRT-RTX, two packages with one Python API."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

from jboost.engine.errors import BadInputError, one_line

#: Name of each variant by its module; the preferred one comes first.
VARIANTS = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
#: Command that installs each. PyPI's ``tensorrt`` is a stub that fetches the libraries from NVIDIA's index.
INSTALL = {
    "tensorrt": "pip install --extra-index-url https://pypi.nvidia.com tensorrt",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}


@dataclass(frozen=True)
class Variant:
    """An imported variant of TensorRT.

    Attributes:
        name: name of the module, a key of `VARIANTS`.
        version: the module's version.
        trt: the module.
    """

    name: str
    version: str
    trt: Any

    def __str__(self) -> str:
        return f"{VARIANTS[self.name]} {self.version}"

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Compute capabilities that it builds for without a GPU, like ``"8.6"``; empty if it builds only on the GPU."""
        known = getattr(getattr(self.trt, "ComputeCapability", None), "__members__", {})
        return tuple(f"{name[2:-1]}.{name[-1]}" for name in known if name.startswith("SM"))


def found_variants() -> tuple[str, ...]:
    """Return the installed modules, the preferred one first; an installed module may still fail to import."""
    return tuple(name for name in VARIANTS if importlib.util.find_spec(name) is not None)


def load_variant(name: str) -> Variant:
    """Import a variant.

    Raises:
        BadInputError: the module is not installed, or cannot be imported, like PyPI's stub without its libraries.
    """
    if importlib.util.find_spec(name) is None:
        raise BadInputError(f"{VARIANTS[name]} is not installed; install it: {INSTALL[name]}")
    try:
        trt = importlib.import_module(name)
        return Variant(name, str(trt.__version__), trt)
    except Exception as e:  # stubs and the loader of shared libraries can raise anything
        raise BadInputError(
            f"the package {name} is installed but cannot be imported ({type(e).__name__}: {one_line(e)}); "
            f"install it again: {INSTALL[name]}"
        ) from e


def new_log(trt: Any) -> Any:
    """Return a ``trt.ILogger`` that prints nothing and keeps errors in its list ``errors``."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(one_line(message))

    return Log()


def said(log: Any) -> str:
    """Return the first error that TensorRT logged, in one line; later errors follow from it."""
    return log.errors[0] if log.errors else "it does not say why"
