"""The eager engine's entry in the registry."""

from __future__ import annotations

from jboost.engine.backends.engine import Availability, Engine, probe_torch
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.loop.runner import Runner


class EagerEngine(Engine):
    """PyTorch autograd. It runs the bundle's forward program, so it serves every request."""

    name = "eager"
    about = "PyTorch autograd, the yardstick"

    def probe(self) -> Availability:
        """Whether torch is installed."""
        return probe_torch()

    def open(self, bundle: Bundle, request: RunRequest) -> Runner:
        """An `EagerRunner`."""
        from .runner import EagerRunner

        return EagerRunner(bundle, request)
