"""The interface of feature extractors, which turn images into the vectors that every metric is computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from jboost.engine.errors import BadInputError

Numpy = np.ndarray[Any, Any]

#: Source of the weights that papers use; messages name it, jboost never downloads it.
INCEPTION_URL = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)


@dataclass(frozen=True)
class Identity:
    """The identity of an extractor. Numbers compare only if `kind` and `sha256` are equal.

    Attributes:
        name: readable name.
        kind: ``"inception"``, ``"onnx"``, ``"torchscript"``, ``"program"``, ``"factory"`` or ``"bundle"``.
        source: the file, folder or factory, as it was given.
        sha256: hash of the file, of a bundle's forward program (of its weights, if its code is not trusted), or of a
            factory's module and its network's parameters.
        remark: a warning for readers of the numbers, or None.
        input_max: the value of white in its input: 1 or 255. Numbers compare only if it is equal, too.
    """

    name: str
    kind: str
    source: str
    sha256: str
    remark: str | None = None
    input_max: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """The attributes as plain values."""
        return asdict(self)


class Outputs(NamedTuple):
    """The outputs of an extractor for B images, each float32."""

    features: Numpy  # [B, D]
    logits: Numpy | None = None  # [B, C], for the Inception Score
    spatial: Numpy | None = None  # [B, S], for sFID


class Extractor(Protocol):
    """Turns images into features.

    Attributes:
        identity: the extractor's identity.
    """

    identity: Identity

    def __call__(self, images: Numpy) -> Outputs:
        """Features of `images` uint8 [B, H, W, C].

        Raises:
            BadInputError: it does not take such images, or does not give features.
        """
        ...


class _FixedBatch:
    """Feeds an extractor of a fixed batch size: pads the last batch and drops the padded rows."""

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
    """Let `extractor`, which takes `size` images at a time, take any number; None: it already takes any."""
    return extractor if size is None else _FixedBatch(extractor, size)


def read_outputs(raw: Any, identity: Identity, count: int) -> Outputs:
    """Convert the return value of a network for `count` images to `Outputs`.

    A single array holds the features. A mapping may hold ``features``, ``logits``, ``probabilities`` and ``spatial``. A
    sequence holds features, logits and spatial features in this order; the latter may be missing. Without features,
    logits serve as features.

    Raises:
        BadInputError: another kind of value, or arrays of other shapes.
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


#: The names that a network may give its outputs.
OUTPUTS = ("features", "logits", "probabilities", "spatial")


def _to_rows(value: Any, name: str, identity: Identity, count: int) -> Numpy:
    if hasattr(value, "detach"):
        value = value.detach().float().cpu().numpy()
    array = np.asarray(value)
    if name == "spatial" and array.ndim > 2:
        array = array.reshape(len(array), -1)
    if array.ndim > 2 and array.shape[2:] == (1,) * (array.ndim - 2):
        array = array.reshape(array.shape[:2])  # pooled, but the map's axes of length 1 are left
    if array.ndim != 2 or len(array) != count or array.dtype.kind not in "fiu":
        raise _misfit(identity, f"returned {name} of shape {list(array.shape)} for {count} image(s)")
    return array.astype(np.float32, copy=False)


def _misfit(identity: Identity, what: str) -> BadInputError:
    return BadInputError(
        f"the extractor {identity.source} {what}; it must give [B, D] features, or outputs named features, logits (or "
        "probabilities) and spatial; pool feature maps inside the network"
    )
