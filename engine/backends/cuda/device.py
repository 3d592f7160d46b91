"""What the images in flight need of a CUDA device: memory, streams, events, kernels and graphs."""

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
            f"out of GPU memory ({mebibytes(wanted)} wanted, {mebibytes(free)} free); use a smaller batch: -b N"
        )


def mebibytes(nbytes: int) -> str:
    """A size for people."""
    return f"{nbytes / 2**20:.0f} MiB"


class Buffer(Protocol):
    """Device memory; freed by `free`, or when nobody refers to it any more.

    Attributes:
        address: of its first byte.
        nbytes: its size.
    """

    address: int
    nbytes: int

    def free(self) -> None:
        """Give it back. Waits for the work that is queued on the device."""
        ...


class Event(Protocol):
    """A point in a stream. One that was never recorded counts as reached."""

    def record(self, stream: Stream) -> None:
        """Be the point behind what is queued on `stream` now."""
        ...

    def done(self) -> bool:
        """Whether the device has got there."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has got there."""
        ...


class Stream(Protocol):
    """A queue of work, which the device takes up in order. Streams are not ordered among each other, except by events.

    Attributes:
        handle: a CUstream, which is a cudaStream_t too, as an integer.
    """

    handle: int

    def wait(self, event: Event) -> None:
        """Go on only when the device has reached the point that `event` is now."""
        ...

    def synchronize(self) -> None:
        """Wait for all that is queued."""
        ...


class Graph(Protocol):
    """Captured work, to be queued as one."""

    def launch(self, stream: Stream) -> None:
        """Queue it."""
        ...


class Device(Protocol):
    """One CUDA device, to be used from the thread that opened it.

    Attributes:
        name: as the driver calls it.
        compute_capability: (major, minor).
        total_memory: bytes.
    """

    name: str
    compute_capability: tuple[int, int]
    total_memory: int

    def free_memory(self) -> int:
        """Bytes that are free now, whoever uses the rest."""
        ...

    def allocate(self, nbytes: int) -> Buffer:
        """Device memory, all zeros.

        Raises:
            OutOfDeviceMemoryError: there is no room.
        """
        ...

    def pinned(self, nbytes: int) -> Numpy:
        """uint8 [nbytes] in page-locked host memory, which alone is copied while the host goes on."""
        ...

    def stream(self) -> Stream:
        """A new stream, not ordered with the default stream either."""
        ...

    def event(self) -> Event:
        """A new event."""
        ...

    def upload(self, address: int, source: Numpy, stream: Stream) -> None:
        """Queue a copy of `source`, uint8 of pinned memory, which must stay as it is until the copy is done."""
        ...

    def download(self, target: Numpy, address: int, stream: Stream) -> None:
        """Queue a copy to `target`, uint8 of pinned memory, to be read when the copy is done."""
        ...

    def launch(self, kernel: str, blocks: int, words: Sequence[int], stream: Stream) -> None:
        """Queue a kernel of `kernels.cu`; `words` are the fields of its structure of arguments, addresses and counts."""
        ...

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph:
        """What `work` queues on `stream`, as a graph; it is not run.

        Raises:
            FailureError: some of it cannot be captured.
        """
        ...

    def synchronize(self) -> None:
        """Wait for everything on every stream."""
        ...

    def close(self) -> None:
        """Let go of the device."""
        ...
