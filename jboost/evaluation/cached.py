"""Statistics in torch-fidelity's cache: a file of torch.save with the arrays ``mu`` and ``sigma``."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]
_MAKE: Any = np.empty(0).__reduce__()[0]
#: What numpy's pickled arrays are made of; torch's reader allows nothing else.
_ARRAYS: list[Any] = [
    (_MAKE, "numpy._core.multiarray._reconstruct"),
    (_MAKE, "numpy.core.multiarray._reconstruct"),  # of numpy 1
    np.ndarray,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64")),
]
_SUFFIXES = (".pt", ".pth")


def read_cached(path: Path) -> tuple[Array, Array] | None:
    """The mean and the covariance in a file of torch-fidelity's cache, as it has them; None for any other file."""
    if path.suffix.lower() not in _SUFFIXES or not path.is_file() or not zipfile.is_zipfile(path):
        return None
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_ARRAYS):
            warnings.simplefilter("ignore")  # they concern how the file was written
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a file of another kind, or a damaged one: opened as images, it gets the right message
        return None
    if not isinstance(found, dict) or set(found) != {"mu", "sigma"}:
        return None
    mu, sigma = found["mu"], found["sigma"]
    if not isinstance(mu, np.ndarray) or not isinstance(sigma, np.ndarray):
        return None
    # A forged file may claim arrays whose numbers it does not hold; touching them would take their memory.
    return (mu, sigma) if mu.nbytes + sigma.nbytes <= path.stat().st_size else None
