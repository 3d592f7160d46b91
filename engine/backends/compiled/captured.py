"""The images in flight on a GPU under torch: fixed addresses, one CUDA graph a step, transfers that do not wait.

A capture records a step's kernels once; every later step replays the graph. Everything that a step depends on (step
size, radius, threshold, noise key, counters) is in tensors, so one graph serves a whole run.

Order of work: everything that touches the state is queued on the current stream. Images are uploaded on a stream of
their own. The current stream waits for it before it puts them into rows, so an upload overlaps with the steps queued
before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from jboost.engine.backends.array_runner import ArrayFlight
from jboost.engine.loop.flight import RowStatus
from jboost.engine.method.rounding import NEAREST
from jboost.engine.method.step import CHANGED
from jboost.engine.method.updates import Controls

if TYPE_CHECKING:
    from jboost.engine.backends.array_runner import ArrayRunner

Numpy = np.ndarray[Any, Any]

#: Steps queued between two statuses: launching is far cheaper than waiting. An image that has stopped holds its row for
#: at most twice as many steps.
STATUS_EVERY = 4


@dataclass(frozen=True)
class _Copies:
    """Host copies of device tensors, complete once `ready` has passed."""

    tensors: dict[str, torch.Tensor]
    ready: torch.cuda.Event | None

    def numpy(self) -> dict[str, Numpy]:
        """As numpy arrays. Waits."""
        if self.ready is not None:
            self.ready.synchronize()
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}


class CapturedFlight(ArrayFlight):
    """Rows of a state at fixed addresses; see `jboost.engine.loop.flight.Flight`.

    Args:
        runner: computes the steps on tensors, without synchronising with the host, and allocates nothing that must
            outlive a step. On a CPU, which tests use, nothing is captured and each step runs directly.
        update_kind, controls, count, shape, rounding: as for `ArrayFlight`.
    """

    status_every = STATUS_EVERY

    def __init__(
        self,
        runner: ArrayRunner,
        update_kind: str,
        controls: Controls,
        count: int,
        shape: tuple[int, int, int],
        rounding: str = NEAREST,
    ):
        super().__init__(runner, update_kind, controls, count, shape, rounding)
        device = self.state.x.device
        self._cuda = device.type == "cuda"
        self._uploads = _stream(device) if self._cuda else None
        self._pending: _Copies | None = None
        # No row is moving yet, so the warm-up steps change nothing.
        self._replay = capture(self.advance, device) if self._cuda else self.advance

    def advance(self, *, in_float32: bool = False) -> None:
        """Queue one step, kernel by kernel; the capture records this."""
        after = self._runner.step(self._update_kind, self.state, self._controls, in_float32=in_float32)
        for name in CHANGED:
            getattr(self.state, name).copy_(getattr(after, name))

    def step(self) -> None:
        """Queue one step of every moving row."""
        self._replay()

    def retry(self) -> None:
        """Queue one step in float32 for the waiting rows; rare, so it is not captured."""
        self.advance(in_float32=True)

    def status(self, *, fresh: bool) -> RowStatus:
        """The status after the last step if `fresh`, else the one queued by the previous call."""
        flags = {f.name: getattr(self.state, f.name) for f in fields(RowStatus)}
        before, self._pending = self._pending, self._copy(flags)
        chosen = self._pending if fresh or before is None else before
        return RowStatus(**chosen.numpy())

    def _put(self, array: Numpy) -> torch.Tensor:
        if self._uploads is None:
            return torch.from_numpy(array)
        tensor = torch.from_numpy(array).pin_memory()
        now = torch.cuda.current_stream(self.state.x.device)
        with torch.cuda.stream(self._uploads):
            there = tensor.to(self.state.x.device, non_blocking=True)
        now.wait_stream(self._uploads)
        there.record_stream(now)  # its memory must not be reused before the current stream has read it
        return there

    def _get(self, tensors: dict[str, torch.Tensor]) -> dict[str, Numpy]:
        return self._copy(tensors).numpy()

    def _copy(self, tensors: dict[str, torch.Tensor]) -> _Copies:
        # With non_blocking, torch puts the copies into pinned memory.
        copies = {name: tensor.to("cpu", non_blocking=True, copy=True) for name, tensor in tensors.items()}
        ready = torch.cuda.Event() if self._cuda else None  # type: ignore[no-untyped-call]
        if ready is not None:
            ready.record(torch.cuda.current_stream(self.state.x.device))
        return _Copies(copies, ready)


def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def capture(work: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Capture `work`, which queues kernels on the current stream of `device`, as one CUDA graph; returns its replay.

    `work` runs a few times first: libraries then choose their kernels and allocate their workspaces, which a capture
    forbids.
    """
    with torch.cuda.device(device):
        side = _stream(device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads read and write files meanwhile; only this thread must avoid what a capture forbids.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            work()
    return graph.replay
