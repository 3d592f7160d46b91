"""jboost: make generated images look more real by gradient steps through a robust joint classifier-discriminator.

    import jboost

    better = jboost.boost(images, labels, bundle="bundle", preset="ct1")  # numpy, torch or PIL; the same kind comes back

    booster = jboost.load("bundle")
    result = booster.boost(images, labels, jboost.PGD(steps=35, step_size=0.1), objective="joint")
    result.images, result.summary

Importing jboost loads neither numpy nor a backend; each is loaded on first use.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from jboost.engine.errors import BadInputError, FailureError, JboostError
    from jboost.engine.method.updates import PGD, SGLD

    from . import diffusers
    from .boosted import Boosted
    from .booster import Booster
    from .one_line import boost, boost_iter

# ONNX Runtime 1.29 and later report each session to Microsoft by default. They read this when they are imported, which is after
# this line, whichever part of the package needs them. A value that the user has set stays.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "PGD", "SGLD", "BadInputError", "Boosted", "Booster", "FailureError", "JboostError", "boost", "boost_iter", "diffusers", "load",
]  # fmt: skip

_HOMES = {
    "PGD": "engine.method.updates",
    "SGLD": "engine.method.updates",
    "BadInputError": "engine.errors",
    "FailureError": "engine.errors",
    "JboostError": "engine.errors",
    "Boosted": "boosted",
    "Booster": "booster",
    "boost": "one_line",
    "boost_iter": "one_line",
}


def load(
    bundle: str | Path = "bundle",
    *,
    engine: str = "auto",
    device: str = "auto",
    dtype: str = "fp32",
    batch_size: int | None = None,
    trust_code: bool = False,
) -> Booster:
    """Open a bundle for boosting. It takes the arguments of `Booster`.

    Raises:
        BadInputError: see `Booster`.
    """
    from .booster import Booster

    return Booster(bundle, engine=engine, device=device, dtype=dtype, batch_size=batch_size, trust_code=trust_code)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("jboost")
    from importlib import import_module

    if name == "diffusers":
        return import_module("jboost.diffusers")
    if name in _HOMES:
        return getattr(import_module(f"jboost.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'jboost' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__", *(name for name in globals() if name.startswith("__"))})
