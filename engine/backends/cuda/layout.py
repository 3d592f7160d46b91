"""Arrays packed one after another in one buffer, so that one copy moves them all."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

Numpy = np.ndarray[Any, Any]
# What TensorRT asks of the address of a tensor, and more than any copy or kernel does.
_ALIGNMENT = 256


class Layout:
    """Where each array stands in a buffer.

    Args:
        fields: name -> (dtype, shape), in the order in which they stand.
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
        """Bytes from the beginning to behind the first `count` entries of `name`."""
        dtype, (_, *rest) = self._fields[name]
        return self.offsets[name] + count * math.prod(rest) * np.dtype(dtype).itemsize

    def views(self, buffer: Numpy) -> dict[str, Numpy]:
        """Each array in `buffer`, uint8 [nbytes]; they share its memory."""
        views = {}
        for name, (dtype, shape) in self._fields.items():
            start = self.offsets[name]
            views[name] = buffer[start : start + math.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
        return views
