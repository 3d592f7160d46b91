"""The compile engine's entry in the registry."""

from __future__ import annotations

from jboost.engine.backends.engine import Availability, Engine, probe_torch
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.loop.runner import Runner


class CompileEngine(Engine):
    """The packages that AOTInductor compiled."""

    name = "compile"
    about = "compiled ahead of time by AOTInductor"

    def probe(self) -> Availability:
        """Whether torch is installed."""
        return probe_torch()

    def why_unusable(self, bundle: Bundle, request: RunRequest) -> str | None:
        """Why the bundle's packages cannot serve `request` on this machine; None if they can."""
        from .packages import why_unusable

        return why_unusable(bundle, request)

    def open(self, bundle: Bundle, request: RunRequest) -> Runner:
        """A `CompiledRunner` of the bundle's own packages."""
        from .runner import CompiledRunner

        return CompiledRunner(bundle, request)
