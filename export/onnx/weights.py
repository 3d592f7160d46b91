"""Share one weight file among graphs with the same weights: several objectives' gradients and the forward pass."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx


def share_weights(path: Path, others: Sequence[str]) -> str:
    """Point a graph's external weights into another graph's weight file, if that file holds all of them.

    Args:
        path: an ONNX file with its weights in ``path`` + ``.data``, which is deleted if another file holds the weights.
        others: names of weight files in the same folder.

    Returns:
        The name of the file that holds the graph's weights.
    """
    own = path.with_name(path.name + ".data")
    model = onnx.load(path, load_external_data=False)
    wanted = {name: _digest(own, *place) for name, place in _places(model)}
    for other in dict.fromkeys(others):
        held = _held(path.with_name(other))
        if wanted and all(digest in held for digest in wanted.values()):
            for tensor in model.graph.initializer:
                if tensor.name in wanted:
                    offset, length = held[wanted[tensor.name]]
                    place = {"location": other, "offset": str(offset), "length": str(length)}
                    for entry in tensor.external_data:
                        entry.value = place.get(entry.key, entry.value)
            path.write_bytes(model.SerializeToString(deterministic=True))
            own.unlink()
            return other
    return own.name


def _places(model: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield (name, (offset, length)) for each initializer stored in another file."""
    for tensor in model.graph.initializer:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if entries:
            yield tensor.name, (int(entries.get("offset", 0)), int(entries["length"]))


def _held(weights: Path) -> dict[str, tuple[int, int]]:
    """Map the hash of each tensor in a weight file to its (offset, length), read from the graph it was written with."""
    model = onnx.load(weights.with_name(weights.name.removesuffix(".data")), load_external_data=False)
    return {_digest(weights, *place): place for _, place in _places(model)}


def _digest(file: Path, offset: int, length: int) -> str:
    with file.open("rb") as f:
        f.seek(offset)
        return hashlib.sha256(f.read(length)).hexdigest()
