"""The interface of a CUDA device to the images in flight: memory, streams, events, kernels and graphs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from jboost.engine.errors import BadInputError

Numpy = np.ndarray[Any, Any]


class OutOfDeviceMemoryError(BadInputError):
    """The device has no room for an allocation."""

    def __init__(self, wanted: int, free: int):
        self.wanted, self.free = wanted, free
        super().__init__(
            f"out of GPU memory ({mebibytes(wanted)} needed, {mebibytes(free)} free); use a smaller batch: -b N"
        )


def mebibytes(nbytes: int) -> str:
    """A size in MiB for a message."""
    return f"{nbytes / 2**20:.0f} MiB"


class Buffer(Protocol):
    """Device memory; freed by `free`, or when nothing refers to it any more.

    Attributes:
        address: the address of the first byte.
        nbytes: the size in bytes.
    """

    address: int
    nbytes: int

    def free(self) -> None:
        """Free the memory. Waits for the work that is queued on the device."""
        ...


class Event(Protocol):
    """A point in a stream. An event that was never recorded counts as reached."""

    def record(self, stream: Stream) -> None:
        """Set the event to the point after the work queued on `stream` so far."""
        ...

    def done(self) -> bool:
        """Whether the device has reached the event."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has reached the event."""
        ...


class Stream(Protocol):
    """A queue of work that the device runs in order. Only events order one stream against another.

    Attributes:
        handle: a CUstream (equally a cudaStream_t) as an integer.
    """

    handle: int

    def wait(self, event: Event) -> None:
        """Hold later work on this stream until the device has reached the point that `event` marks now."""
        ...

    def synchronize(self) -> None:
        """Wait for all queued work."""
        ...


class Graph(Protocol):
    """Captured work that is queued as one unit."""

    def launch(self, stream: Stream) -> None:
        """Queue the graph."""
        ...


class Device(Protocol):
    """One CUDA device, usable only from the thread that opened it.

    Attributes:
        name: the driver's name for it.
        compute_capability: (major, minor).
        total_memory: in bytes.
    """

    name: str
    compute_capability: tuple[int, int]
    total_memory: int

    def free_memory(self) -> int:
        """Free bytes on the device now; the use of other processes counts too."""
        ...

    def allocate(self, nbytes: int) -> Buffer:
        """Device memory, filled with zeros.

        Raises:
            OutOfDeviceMemoryError: the device has too little free memory.
        """
        ...

    def pinned(self, nbytes: int) -> Numpy:
        """uint8 [nbytes] in page-locked host memory; only copies from and to such memory are asynchronous."""
        ...

    def stream(self) -> Stream:
        """A new stream, not ordered against any other, including the default stream."""
        ...

    def event(self) -> Event:
        """A new event."""
        ...

    def upload(self, address: int, source: Numpy, stream: Stream) -> None:
        """Queue a copy of `source`, uint8 in pinned memory, which must not change until the copy is done."""
        ...

    def download(self, target: Numpy, address: int, stream: Stream) -> None:
        """Queue a copy to `target`, uint8 in pinned memory, which must not be read until the copy is done."""
        ...

    def launch(self, kernel: str, blocks: int, words: Sequence[int], stream: Stream) -> None:
        """Queue a kernel of `kernels.cu`; `words` are the fields of its argument struct: addresses and counts."""
        ...

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """The work that `work` queues on `stream`, as a graph. The work itself does not run.

        Raises:
            FailureError: some of the work cannot be captured.
        """
        ...

    def synchronize(self) -> None:
        """Wait for everything on every stream."""
        ...

    def close(self) -> None:
        """Release the device."""
        ...
