"""The trt engine's entry in the registry."""

from __future__ import annotations

from jboost.engine.backends.engine import Availability, Engine
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.loop.runner import Runner


class TrtEngine(Engine):
    """TensorRT or TensorRT-RTX."""

    name = "trt"
    about = "TensorRT"

    def probe(self) -> Availability:
        """Return whether this machine has TensorRT, pycuda, cuda-python and a GPU."""
        from .probe import probe

        return probe()

    def why_unusable(self, bundle: Bundle, request: RunRequest) -> str | None:
        """Return why none of the bundle's plans can serve `request` on this machine; None if one can."""
        from .plans import why_unusable

        return why_unusable(bundle, request)

    def open(self, bundle: Bundle, request: RunRequest) -> Runner:
        """Open a `TrtRunner`."""
        from .runner import TrtRunner

        return TrtRunner(bundle, request)
