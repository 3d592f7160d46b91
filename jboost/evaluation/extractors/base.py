"""Feature extractors: what turns images into the vectors that every number here is computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from jboost.engine.errors import BadInputError

Numpy = np.ndarray[Any, Any]

#: Where the weights that papers use come from; said, never fetched.
INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)


@dataclass(frozen=True)
class Identity:
    """Which extractor made some features. Numbers compare only where these are equal.

    Attributes:
        name: in words.
        kind: ``"inception"``, ``"onnx"``, ``"torchscript"``, ``"program"``, ``"factory"`` or ``"bundle"``.
        source: the file, folder or factory, as it was given.
        sha256: of the file; of a bundle's forward program; of a factory's module and its network's parameters.
        remark: what a reader of its numbers must know, or None.
    """

    name: str
    kind: str
    source: str
    sha256: str
    remark: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class Outputs(NamedTuple):
    """What an extractor gives for B images: float32 each."""

    features: Numpy  # [B, D]
    logits: Numpy | None = None  # [B, C], for the Inception Score
    spatial: Numpy | None = None  # [B, S], for sFID


class Extractor(Protocol):
    """Images to features.

    Attributes:
        identity: which it is.
    """

    identity: Identity

    def __call__(self, images: Numpy) -> Outputs:
        """Features of `images` uint8 [B, H, W, C].

        Raises:
            BadInputError: it does not take such images, or gives something else than features.
        """
        ...


class _FixedBatch:
    """An extractor of a fixed batch size, fed with batches of that size: the last one is padded, and its rows cut off again."""

    def __init__(self, extractor: Extractor, size: int):
        self.identity = extractor.identity
        self._extractor, self._size = extractor, size

    def __call__(self, images: Numpy) -> Outputs:
        parts: list[Outputs] = []
        for start in range(0, len(images), self._size):
            part = images[start : start + self._size]
            padding = np.repeat(part[-1:], self._size - len(part), 0)
            out = self._extractor(np.concatenate([part, padding]))
            parts.append(Outputs._make(None if array is None else array[: len(part)] for array in out))
        return Outputs._make(
            None if arrays[0] is None else np.concatenate(arrays) for arrays in zip(*parts, strict=True)
        )


def fix_batch(extractor: Extractor, size: int | None) -> Extractor:
    """`extractor`, given any number of images at a time although it takes `size`; None where it takes any."""
    return extractor if size is None else _FixedBatch(extractor, size)


def read_outputs(raw: Any, identity: Identity, count: int) -> Outputs:
    """What a network returned for `count` images, as `Outputs`.

    A single array is the features. A mapping may hold ``features``, ``logits``, ``probabilities`` and ``spatial``; a sequence is
    (features, logits, spatial), as far as it goes. Logits alone serve as features too.

    Raises:
        BadInputError: something else, or arrays of other shapes.
    """
    named: Mapping[str, Any]
    if isinstance(raw, Mapping):
        named = raw
    elif isinstance(raw, Sequence) and 1 <= len(raw) <= 3:
        named = dict(zip(("features", "logits", "spatial"), raw, strict=False))
    elif hasattr(raw, "shape"):
        named = {"features": raw}
    else:
        raise _misfit(identity, f"returned {type(raw).__name__}")
    arrays = {name: _to_rows(named[name], name, identity, count) for name in named if name in OUTPUTS}
    if "probabilities" in arrays:
        p = arrays.pop("probabilities")
        if (p < 0).any() or np.abs(p.sum(1) - 1).max() > 1e-2:
            raise _misfit(identity, "returned probabilities that do not add up to 1")
        arrays.setdefault("logits", np.log(np.maximum(p, np.finfo(np.float32).tiny)))
    features = arrays.get("features", arrays.get("logits"))
    if features is None:
        raise _misfit(identity, f"returned {', '.join(map(str, named)) or 'nothing'}")
    return Outputs(features, arrays.get("logits"), arrays.get("spatial"))


#: What a network may name its outputs.
OUTPUTS = ("features", "logits", "probabilities", "spatial")


def _to_rows(value: Any, name: str, identity: Identity, count: int) -> Numpy:
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    array = np.asarray(value)
    if name == "spatial" and array.ndim > 2:
        array = array.reshape(len(array), -1)
    if array.ndim > 2 and array.shape[2:] == (1,) * (array.ndim - 2):
        array = array.reshape(array.shape[:2])  # pooled, with the map's sides still there
    if array.ndim != 2 or len(array) != count or array.dtype.kind not in "fiu":
        raise _misfit(identity, f"returned {name} of shape {list(array.shape)} for {count} image(s)")
    return array.astype(np.float32, copy=False)


def _misfit(identity: Identity, what: str) -> BadInputError:
    return BadInputError(
        f"the extractor {identity.source} {what}; it must give [B, D] features, or name them: features, logits (or probabilities), "
        "spatial; pool feature maps inside the network"
    )
