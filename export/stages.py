"""How far an export is: a stage for each file and each slow piece of work, counted as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from jboost.engine.method.updates import MOVES

from .request import ExportRequest

Say = Callable[[str], None]


def package_stages(request: ExportRequest) -> int:
    """The number of compiled packages that a request needs."""
    return len(request.resolutions) * (len(request.dtypes) * (len(request.objectives) + 1) + len(MOVES))


def graph_stages(request: ExportRequest) -> int:
    """The number of ONNX graphs that a request needs, and of traces: one per image size."""
    return len(request.resolutions) * (len(request.dtypes) * (len(request.objectives) + 1) + 1)


class Stages:
    """Counts finished stages.

    Args:
        total: stages of the whole export.
        say: called with a line at the begin of each stage.
        on_progress: called with the finished stages and their total whenever one ends.
    """

    def __init__(self, total: int, say: Say, on_progress: Callable[[int, int], None]):
        self.say, self._on_progress = say, on_progress
        self._done, self._total = 0, total
        on_progress(0, total)

    def end(self) -> None:
        """Count a stage as finished."""
        self._to(self._done + 1)

    @contextmanager
    def several(self, count: int) -> Iterator[Say]:
        """A block of `count` stages; yields what it calls at the begin of each, which ends the one before."""
        first, begun = self._done, 0

        def begin(line: str) -> None:
            nonlocal begun
            self._to(first + min(begun, count))
            begun += 1
            self.say(line)

        yield begin
        self._to(first + count)

    def _to(self, done: int) -> None:
        self._done = done
        self._on_progress(done, self._total)
