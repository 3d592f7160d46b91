"""jboost: make generated images look more real by gradient steps through a robust joint classifier-discriminator.

    import jboost

    booster = jboost.load("bundle")
    result = booster.boost(images, labels, jboost.PGD(steps=35, step_size=0.1), objective="joint")
    result.images  # uint8 [N, H, W, C]

Importing jboost loads neither numpy nor a backend; each is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from jboost.engine.errors import BadInputError, FailureError, JboostError
    from jboost.engine.method.updates import PGD, SGLD

    from .booster import Boosted, Booster

__all__ = ["PGD", "SGLD", "BadInputError", "Boosted", "Booster", "FailureError", "JboostError", "load"]

_HOMES = {
    "PGD": "engine.method.updates",
    "SGLD": "engine.method.updates",
    "BadInputError": "engine.errors",
    "FailureError": "engine.errors",
    "JboostError": "engine.errors",
    "Boosted": "booster",
    "Booster": "booster",
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
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"jboost.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'jboost' has no attribute {name!r}")
