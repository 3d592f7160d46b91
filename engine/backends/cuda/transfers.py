"""Copies between host and device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .device import Device, Stream
from .layout import Layout, Numpy


class Mirror:
    """Arrays in device memory and their counterparts in pinned host memory.

    Attributes:
        layout: the layout of both.
        at: device addresses by name.
        views: the host's arrays by name.
    """

    def __init__(self, device: Device, layout: Layout):
        self.layout, self._device = layout, device
        self._buffer, self._pinned = device.allocate(layout.nbytes), device.pinned(layout.nbytes)
        self.at, self.views = layout.addresses(self._buffer.address), layout.views(self._pinned)

    def upload(self, stream: Stream, nbytes: int | None = None) -> None:
        """Queue a copy of the first `nbytes`, or all, to the device."""
        self._device.upload(self._buffer.address, self._pinned[:nbytes], stream)

    def download(self, stream: Stream, nbytes: int | None = None) -> None:
        """Queue a copy of the first `nbytes`, or all, to the host."""
        self._device.download(self._pinned[:nbytes], self._buffer.address, stream)

    def free(self) -> None:
        """Free the device memory."""
        self._buffer.free()


class Uploads:
    """Uploads of host arrays to the device, in parallel with the work there: two mirrors, used in turn.

    Two events order host, copies and work. The host fills a mirror's pinned memory after `copied`, the end of that
    mirror's last copy. The next copy, on the stream of transfers, waits for `used`, the end of the work that read the
    mirror's device memory. The compute stream waits for `copied` before it reads.

    Args:
        device: the destination.
        compute: the stream of the work that reads the uploaded arrays.
        transfers: the stream of the copies.
        layout: the arrays that may be uploaded together; the longest last.
    """

    def __init__(self, device: Device, compute: Stream, transfers: Stream, layout: Layout):
        self._compute, self._transfers = compute, transfers
        self._slots = [_Slot(device, layout) for _ in range(2)]

    @contextmanager
    def send(self, **arrays: Numpy) -> Iterator[dict[str, int]]:
        """Queue the copies; within the context, queue the work on the compute stream that reads them.

        Args:
            arrays: by the layout's names; an array that is shorter than its place fills the beginning.

        Yields:
            The device address of each of the layout's arrays.
        """
        self._slots.reverse()
        slot = self._slots[0]
        slot.copied.synchronize()
        end = 0
        for name, array in arrays.items():
            slot.mirror.views[name][: len(array)] = array
            end = max(end, slot.mirror.layout.end(name, len(array)))
        self._transfers.wait(slot.used)
        slot.mirror.upload(self._transfers, end)
        slot.copied.record(self._transfers)
        self._compute.wait(slot.copied)
        try:
            yield slot.mirror.at
        finally:
            slot.used.record(self._compute)

    def free(self) -> None:
        """Free the device memory."""
        for slot in self._slots:
            slot.mirror.free()


class _Slot:
    def __init__(self, device: Device, layout: Layout):
        self.mirror, self.copied, self.used = Mirror(device, layout), device.event(), device.event()


class HostCopy:
    """A host copy of device memory, taken at a point of a stream.

    Attributes:
        taken: the event after the copy; `views` must not be read before it.
        views: the host's arrays by name.
    """

    def __init__(self, device: Device, layout: Layout, address: int):
        self._device, self._address, self._pinned = device, address, device.pinned(layout.nbytes)
        self.taken, self.views = device.event(), layout.views(self._pinned)

    def take(self, stream: Stream) -> None:
        """Queue the copy."""
        self._device.download(self._pinned, self._address, stream)
        self.taken.record(stream)
