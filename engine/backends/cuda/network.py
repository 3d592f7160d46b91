"""The interface of a compiled network on a CUDA device to the images in flight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from .device import Stream


class Network(Protocol):
    """A gradient graph or a forward pass with a fixed batch size, on buffers that the caller owns.

    Attributes:
        batch_size: the number of rows of every buffer.
        capturable: whether `enqueue` may be captured in a CUDA graph.
    """

    batch_size: int
    capturable: bool

    def bind(self, **addresses: int) -> None:
        """Use these device addresses from the next `enqueue` on. Callers bind again only if the addresses change.

        Args:
            addresses: by tensor name. x: float32 [B, C, H, W]; y: int64 [B]; class_logit: float32 [B]; predicted:
                int64 [B]. A gradient graph has two more: grad: float32 [B, C, H, W]; loss: float32 [B].
        """
        ...

    def enqueue(self, stream: int) -> None:
        """Queue one run on the stream (a cudaStream_t or CUstream as an integer). Does not wait for the device."""
        ...


class Binding:
    """A network that is bound again only if the addresses differ from those of its last run."""

    def __init__(self, network: Network):
        self.network = network
        self._now: dict[str, int] = {}

    def enqueue(self, addresses: Mapping[str, int], stream: Stream) -> None:
        """Queue one run with buffers at `addresses`; see `Network.bind`."""
        if self._now != addresses:
            self.network.bind(**addresses)
            self._now = dict(addresses)
        self.network.enqueue(stream.handle)
