"""The interface of an engine: whether it can run on this machine, whether it can serve a run, and how to open it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from dataclasses import dataclass

from jboost.engine.bundle import Bundle
from jboost.engine.loop.runner import Runner

from .request import RunRequest


@dataclass(frozen=True)
class Availability:
    """Whether an engine can run on this machine.

    Attributes:
        available: whether it can.
        why: what was found, or what is missing.
        remedy: what to type if something is missing.
    """

    available: bool
    why: str
    remedy: str = ""


class Engine(ABC):
    """One way to run a bundle. Its module imports no backend; each method imports its backend when it is called.

    Attributes:
        name: the name on the command line.
        about: a short description.
    """

    name: str
    about: str

    @abstractmethod
    def probe(self) -> Availability:
        """Whether this machine has what the engine needs."""

    def why_unusable(self, bundle: Bundle, request: RunRequest) -> str | None:
        """Why the engine cannot serve `request` from `bundle`, with what to type; None if it can.

        Raises:
            BadInputError: this machine does not have the device.
        """
        return None

    @abstractmethod
    def open(self, bundle: Bundle, request: RunRequest) -> Runner:
        """A runner for a request that `why_unusable` accepted; `open` does not check it again.

        Raises:
            BadInputError: a bundle file is missing, changed or unreadable.
        """


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def probe_torch() -> Availability:
    """Whether torch is installed, without importing it."""
    version = installed_version("torch")
    if version is None or importlib.util.find_spec("torch") is None:
        return Availability(False, "torch is not installed", "install it: pip install torch")
    return Availability(True, f"torch {version}")
