"""The eager engine's entry in the registry."""

from __future__ import annotations

from jboost.engine.backends.engine import Availability, Engine, probe_torch
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.loop.runner import Runner


class EagerEngine(Engine):
    """PyTorch autograd. It runs the bundle's forward pass, so it serves every request."""

    name = "eager"
    about = "PyTorch autograd, the yardstick"

    def probe(self) -> Availability:
        """Whether torch is installed."""
        return probe_torch()

    def why_unusable(self, bundle: Bundle, request: RunRequest) -> str | None:
        """Why the bundle's forward pass must not run; None if it may, or if the network is built from the weights."""
        if bundle.rebuild is not None or bundle.why_untrusted("forward") is None:
            return None
        return (
            f"jboost does not define the architecture {bundle.config.architecture} and cannot build it from its weights, and "
            f"{bundle.why_untrusted('forward')}"
        )

    def open(self, bundle: Bundle, request: RunRequest) -> Runner:
        """An `EagerRunner`."""
        from .runner import EagerRunner

        return EagerRunner(bundle, request)
