"""Arrays packed one after another in one buffer, so one copy moves them all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

Numpy = np.ndarray[Any, Any]
# TensorRT requires this alignment of tensor addresses; no copy or kernel requires more.
_ALIGNMENT = 256


class Layout:
    """The place of each array in a buffer.

    Args:
        fields: name -> (dtype, shape), in the order of their places.
    """

    def __init__(self, fields: Mapping[str, tuple[DTypeLike, tuple[int, ...]]]):
        self._fields = dict(fields)
        self.offsets: dict[str, int] = {}
        end = 0
        for name, (dtype, shape) in self._fields.items():
            self.offsets[name] = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = self.offsets[name] + math.prod(shape) * np.dtype(dtype).itemsize
        #: The buffer's size in bytes.
        self.nbytes = end

    def addresses(self, base: int) -> dict[str, int]:
        """The address of each array in a buffer at `base`."""
        return {name: base + offset for name, offset in self.offsets.items()}

    def end(self, name: str, count: int) -> int:
        """Bytes from the beginning of the buffer to the end of the first `count` entries of `name`."""
        dtype, (_, *rest) = self._fields[name]
        return self.offsets[name] + count * math.prod(rest) * np.dtype(dtype).itemsize

    def views(self, buffer: Numpy) -> dict[str, Numpy]:
        """Each array as a view of `buffer`, uint8 [nbytes]."""
        views = {}
        for name, (dtype, shape) in self._fields.items():
            start = self.offsets[name]
            views[name] = buffer[start : start + math.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
        return views
