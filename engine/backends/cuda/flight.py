"""The images in flight in a CUDA device's buffers: a step is the network and one kernel, captured once as one graph.

Order of work: there are two streams.

- *compute* alone touches the rows. Admissions, steps, copies of the status and the gathering of results are queued on
  it in the order of the calls, so each sees the effect of the earlier ones and no two overlap.
- *transfers* only copies between pinned host memory and staging buffers, in parallel with the steps. Events order it
  against compute (see `Uploads` and `collect`).

The host waits in `collect`, and in a `status` that is fresh, the first one, or the first one after a retry. Otherwise
the host is at most one status ahead of the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np

from jboost.engine.loop.flight import Finished, RowStatus
from jboost.engine.method.rounding import NEAREST, limit_of
from jboost.engine.method.step import State
from jboost.engine.method.updates import Controls

from . import kernels
from .buffers import RowBuffers, staging
from .device import Device, Stream
from .layout import Layout, Numpy
from .network import Binding
from .transfers import HostCopy, Mirror, Uploads


class DeviceFlight:
    """Rows in device memory; see `jboost.engine.loop.flight.Flight`.

    Args:
        device: the device that holds the rows.
        compute, transfers: streams of the device.
        gradient: the network of an ordinary step.
        float32: returns the network of a retry, for the same batch size.
        update_kind: the update kind, a key of `jboost.engine.method.updates.MOVES`.
        controls: as numpy arrays.
        count: B, the number of rows.
        shape: (C, H, W) of an image.
        rounding: how images leave; see `jboost.engine.method.rounding`.

    Raises:
        BadInputError: the update has no kernel.
        OutOfDeviceMemoryError: the rows do not fit.
        FailureError: the step cannot be captured.
    """

    #: A status costs a copy of some kilobytes and a few calls. An image that has ended holds its row until a status
    #: shows it.
    status_every = 4

    def __init__(
        self,
        device: Device,
        compute: Stream,
        transfers: Stream,
        gradient: Binding,
        float32: Callable[[], Binding],
        update_kind: str,
        controls: Controls,
        count: int,
        shape: tuple[int, int, int],
        rounding: str = NEAREST,
    ):
        self._device, self._compute, self._transfers = device, compute, transfers
        self._gradient, self._float32, self._count = gradient, float32, count
        self._step_kernel = kernels.step_kernel(update_kind)
        self._limit = limit_of(update_kind, float(controls.radius), rounding)
        channels, height, width = shape
        self._form, self._size = [channels, height * width], channels * height * width
        self._rows = RowBuffers(device, compute, controls, count, shape)
        self._state = [self._rows.at[name] for name in State._fields]
        self._uploads = Uploads(device, compute, transfers, staging(count, shape))
        leaving = {"moved": (np.float32, (count,)), "images": (np.uint8, (count, height, width, channels))}
        self._results = Mirror(device, Layout(leaving))
        self._gathered = device.event()
        self._host_copies = [HostCopy(device, self._rows.records, self._rows.records_address) for _ in range(2)]
        self._earlier: HostCopy | None = None

        # One step outside a capture: on its first run a network may allocate memory or choose kernels, and the kernels
        # are loaded. No row is moving yet, so the step changes nothing.
        self._ordinary_step()
        compute.synchronize()
        self._graph = device.capture(compute, self._ordinary_step) if gradient.network.capturable else None

    def admit(self, rows: Numpy, images: Numpy, y: Numpy, index: Numpy, limit: Numpy, numbers: Numpy) -> None:
        """Put images into rows and reset every field of these rows. Waits only if two uploads are still under way."""
        with self._uploads.send(row=rows, y=y, index=index, limit=limit, number=numbers, images=images) as at:
            arrived = [at[name] for name in ("row", "y", "index", "limit", "number", "images")]
            self._device.launch(kernels.ADMIT, len(rows), [*self._state, *arrived, *self._form], self._compute)

    def step(self) -> None:
        """Queue one step of every moving row."""
        if self._graph is not None:
            self._graph.launch(self._compute)
        else:
            self._ordinary_step()

    def _ordinary_step(self) -> None:
        self._gradient.enqueue(self._rows.tensors, self._compute)
        self._update("no")

    def retry(self) -> None:
        """Queue one step with gradients in float32 for the waiting rows."""
        self._float32().enqueue(self._rows.tensors, self._compute)
        self._update("yes")
        self._earlier = None  # the earlier copy shows rows as waiting that no longer wait

    def _update(self, in_float32: str) -> None:
        at = self._rows.at
        network = [at["grad"], at["network_class_logit"], at["network_predicted"]]
        words = [*self._state, *network, at["controls"], at[in_float32], self._size]
        self._device.launch(self._step_kernel, self._count, words, self._compute)

    def status(self, *, fresh: bool) -> RowStatus:
        """If `fresh`, wait for the current status; else return the previous one if the copy of this one is not done."""
        seen = self._records(fresh=fresh)
        return RowStatus(**{field.name: seen[field.name].copy() for field in fields(RowStatus)})

    def _records(self, *, fresh: bool) -> dict[str, Numpy]:
        # The older copy's pinned memory is free: the last call waited for that copy, or for a later one.
        self._host_copies.reverse()
        newest, seen = self._host_copies[0], self._earlier
        # On the compute stream, so that no step changes the rows during the copy.
        newest.take(self._compute)
        self._earlier = newest
        if fresh or seen is None or newest.taken.done():
            seen = newest
        seen.taken.synchronize()
        return seen.views

    def collect(self, rows: Numpy) -> Finished:
        """The images in `rows` after every step queued so far."""
        n, results = len(rows), self._results
        with self._uploads.send(row=rows) as sent:
            words = [*self._state, sent["row"], results.at["images"], results.at["moved"], *self._form, *self._limit]
            self._device.launch(kernels.COLLECT, n, words, self._compute)
        self._gathered.record(self._compute)
        self._transfers.wait(self._gathered)
        results.download(self._transfers, results.layout.end("images", n))
        record = {name: array[rows] for name, array in self._records(fresh=True).items()}
        self._transfers.synchronize()
        return Finished(
            images=results.views["images"][:n].copy(), index=record["index"], y=record["y"],
            steps=np.where(record["failed"], 0, record["steps"]), stopped=record["stopped"], failed=record["failed"],
            retried=record["retried"], before_logit=record["before_logit"],
            before_predicted=record["before_predicted"], moved=results.views["moved"][:n].copy(),
        )  # fmt: skip

    def close(self) -> None:
        """Free the device's memory; the flight cannot be used afterwards."""
        self._device.synchronize()
        self._rows.free()
        self._uploads.free()
        self._results.free()
