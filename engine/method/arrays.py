"""The one module that finds out which array library an array belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np

# Any array of the array API standard: a numpy array, a torch tensor, a cupy array.
Array = Any


def namespace(*arrays: Array) -> Any:
    """The array-API namespace of `arrays`.

    numpy 2 conforms to the standard by itself, so a machine with only numpy needs no other package. Every other library
    goes through array-api-compat.
    """
    if all(isinstance(a, np.ndarray) for a in arrays):
        return np
    from array_api_compat import array_namespace

    return array_namespace(*arrays)


def per_image(v: Array, like: Array) -> Array:
    """Reshape `v` [B] so that it broadcasts over `like` [B, ...]."""
    return namespace(v).reshape(v, (v.shape[0],) + (1,) * (like.ndim - 1))
