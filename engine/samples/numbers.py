"""The number of each image of a set: it decides the image's noise, and nothing else does.

An image keeps its number wherever its set is split, read and resumed, so nobody has to count the images of earlier shards.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError, printable

from .base import SampleSet
from .fitted import original
from .naming import image_names
from .several import Several

#: Kinds of sets whose images are numbered by their keys; in others an image's number is its position.
KEYED = ("webdataset", "parquet")
Numbers = np.ndarray[Any, np.dtype[np.int64]]


def sample_numbers(samples: SampleSet) -> Numbers:
    """The numbers int64 [N] in [0, 2^63) of a set's images, all different in one file.

    WebDataset: 63 bits of BLAKE2b of the sample's key. Parquet: of the file's name and the row. Else: the position in the file; a
    range of an npz keeps the positions in the whole file.

    Raises:
        BadInputError: two images have one number.
    """
    own = original(samples) or samples
    if isinstance(own, Several):
        return np.concatenate([sample_numbers(part) for part in own.parts])
    if own.kind == "webdataset":
        from .shards import split_name

        return _hashed(own, [parts[0] for parts in map(split_name, image_names(own) or ()) if parts is not None])
    if own.kind == "parquet":
        return _hashed(own, (f"{own.path.name}\0{row}" for row in range(own.shape[0])))
    return np.arange(own.shape[0], dtype=np.int64) + int(getattr(own, "first", 0))


def _hashed(samples: SampleSet, keys: Iterable[str]) -> Numbers:
    found: dict[int, str] = {}
    for key in keys:
        number = number_of(key)
        if number in found:
            raise BadInputError(
                f"{samples.path}: the keys {printable(found[number])} and {printable(key)} give one number, so their noise would "
                "be the same; give each sample a key of its own"
            )
        found[number] = key
    return np.fromiter(found, np.int64, len(found))


def number_of(key: str) -> int:
    """63 bits of the BLAKE2b hash of a key."""
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big") >> 1
