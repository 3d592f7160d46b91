"""The device memory of the images in flight."""

from __future__ import annotations

import numpy as np

from jboost.engine.method.updates import Controls

from .device import Device, Stream
from .layout import Layout

# The struct `Controls` of kernels.cu.
CONTROLS = np.dtype(
    [(name, np.float32) for name in ("step_size", "radius", "noise", "threshold")] + [("key", np.int64, (2,))]
)
_CONSTANTS = Layout({"controls": (CONTROLS, (1,)), "no": (np.uint8, (1,)), "yes": (np.uint8, (1,))})

#: The index of an empty row. No image has this index, so no status attributes the row to an image.
NO_IMAGE = -1


def records(count: int) -> Layout:
    """The fields of the rows except the images: everything the host reads, in one buffer, so one copy moves it."""
    integers, reals, flags = ((dtype, (count,)) for dtype in (np.int64, np.float32, np.bool_))
    return Layout(
        dict.fromkeys(("y", "number", "limit", "steps", "before_predicted", "index"), integers)
        | dict.fromkeys(("class_logit", "before_logit"), reals)
        | dict.fromkeys(("moving", "stopped", "failed", "waiting", "retried"), flags)
    )


def staging(count: int, shape: tuple[int, int, int]) -> Layout:
    """The uploaded arrays: up to `count` images uint8 of `shape` (C, H, W), and five integers of each."""
    channels, height, width = shape
    each = dict.fromkeys(("row", "y", "index", "limit", "number"), (np.int64, (count,)))
    return Layout({**each, "images": (np.uint8, (count, height, width, channels))})


class RowBuffers:
    """B empty rows, the network's outputs and the controls.

    Args:
        device: the device that holds them.
        stream: the stream of the copies that fill them; the copies are complete on return.
        controls: as numpy arrays.
        count: B.
        shape: (C, H, W) of an image.

    Attributes:
        at: the device address of every array: the fields of `jboost.engine.method.step.State`; ``grad``,
            ``network_class_logit``, ``network_loss`` and ``network_predicted``, the network's outputs; ``controls``;
            the flags ``no`` and ``yes``.
        records: the layout of the small arrays.
        records_address: the address of the first small array.
        tensors: device address by tensor name, for a `Network`.
    """

    def __init__(self, device: Device, stream: Stream, controls: Controls, count: int, shape: tuple[int, int, int]):
        images, integers, reals = (np.float32, (count, *shape)), (np.int64, (count,)), (np.float32, (count,))
        tensors = Layout({
            "x": images, "x0": images, "grad": images, "network_class_logit": reals, "network_loss": reals,
            "network_predicted": integers,
        })  # fmt: skip
        self.records = records(count)
        self._buffers = [device.allocate(layout.nbytes) for layout in (tensors, self.records, _CONSTANTS)]
        self.at: dict[str, int] = {}
        for layout, buffer in zip((tensors, self.records, _CONSTANTS), self._buffers, strict=True):
            self.at |= layout.addresses(buffer.address)
        self.records_address = self._buffers[1].address
        outputs = {name: self.at[f"network_{name}"] for name in ("class_logit", "loss", "predicted")}
        self.tensors = {"x": self.at["x"], "y": self.at["y"], "grad": self.at["grad"], **outputs}

        constants, rows = device.pinned(_CONSTANTS.nbytes), device.pinned(self.records.nbytes)
        constants[:] = rows[:] = 0
        self.records.views(rows)["index"][:] = NO_IMAGE
        views = _CONSTANTS.views(constants)
        for name, value in controls._asdict().items():
            views["controls"][name] = value
        views["yes"][:] = 1
        device.upload(self.records_address, rows, stream)
        device.upload(self._buffers[2].address, constants, stream)
        stream.synchronize()

    def free(self) -> None:
        """Free the device memory."""
        for buffer in self._buffers:
            buffer.free()
