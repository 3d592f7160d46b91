"""References that settings were tuned on: a mark in the cache, so that `jboost eval` says it when one is reported on.

A reference of images is known again by its images, not by its file: a sketch of the smallest hashes of single images (Broder 1997)
also recognises a copy in another order or format, and a set that shares a part of its images.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.samples import SampleSet
from jboost.engine.samples.identity import file_contents
from jboost.engine.system.cache import cache_folder, read_cached, write_cached
from jboost.engine.system.typed import as_list, as_mapping, as_text, load_json

_FOLDER = "tuned"
_SKETCH = 256
_LEAST_SHARED = 0.02  # of a sketch: a few images may be in two sets by chance, such as black ones
_AT_A_TIME = 256
_MOST_MARKS = 1000
_FORMAT = 1


def sketch(images: SampleSet, on_progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """The smallest hashes of a set's images, at most 256, ascending; order and copies of images do not count."""
    count = images.shape[0]
    smallest: list[str] = []
    for first in range(0, count, _AT_A_TIME):
        indices = np.arange(first, min(first + _AT_A_TIME, count))
        hashes = {hashlib.blake2b(image.tobytes(), digest_size=8).hexdigest() for image in images.read(indices)}
        smallest = heapq.nsmallest(_SKETCH, {*smallest, *hashes})
        on_progress(int(indices[-1]) + 1, count)
    return smallest


def shared(one: Sequence[str], other: Sequence[str]) -> float:
    """The share of the images of both sets together that are in both, estimated from their sketches."""
    both = set(one) & set(other)
    union = heapq.nsmallest(_SKETCH, {*one, *other})
    return sum(item in both for item in union) / len(union) if union else 0.0


def reference_digest(reference: Path, images: SampleSet | None) -> str:
    """A hash of what a reference holds, hex: of its images' set, or of the file of features or statistics."""
    return file_contents(reference) if images is None else images.fingerprint


def mark(reference: Path, content: dict[str, Any]) -> bool:
    """Remember that settings were tuned on a reference.

    Args:
        reference: its path.
        content: ``digest`` of `reference_digest`, ``sketch`` of its images (empty if it has none), and what else a reader
            wants to know.

    Returns:
        Whether the mark could be written.
    """
    note = {"format": _FORMAT, "reference": str(reference.resolve()), "when": time.strftime("%Y-%m-%d %H:%M")} | content
    name = (
        f"{_FOLDER}/{hashlib.sha256(json.dumps([content['digest'], content['sketch']]).encode()).hexdigest()[:32]}.json"
    )
    text = json.dumps(note, indent=2).encode() + b"\n"
    write_cached(name, text)
    return read_cached(name) == text


def warning(reference: Path, images: SampleSet | None) -> str | None:
    """What to say if settings were tuned on a reference; None if no mark names it or a set that shares its images.

    Args:
        reference: the reference's path.
        images: its images; None if it holds features or statistics.
    """
    marks = _marks()
    if not marks:
        return None
    digest = reference_digest(reference, images)
    # Reading every image is worth it only if another set of images has a mark.
    own = sketch(images) if images is not None and any(m["sketch"] and m["digest"] != digest for m in marks) else []
    found = [(1.0 if m["digest"] == digest else shared(own, m["sketch"]), m) for m in marks]
    share, first = max(found, key=lambda pair: pair[0])
    if share < _LEAST_SHARED:
        return None
    how = "this reference" if share == 1.0 else f"a reference that shares images with this one ({share:.0%} of both)"
    return (
        f"settings were tuned on {how}, {first['reference']}, {first['when']} (jboost tune): FIDs against it flatter them; report "
        "on other real images, such as the part that tune --holdout leaves"
    )


def _marks() -> list[dict[str, Any]]:
    """The marks in the cache; what is not one, or damaged, is passed over."""
    found = []
    for file in sorted((cache_folder() / _FOLDER).glob("*.json"))[:_MOST_MARKS]:
        try:
            note = as_mapping(load_json(file.read_bytes()), "mark")
            if note.get("format") != _FORMAT:
                continue
            kept = {key: as_text(note[key], key) for key in ("reference", "when", "digest")}
            found.append(
                kept | {"sketch": [as_text(h, "hash") for h in as_list(note["sketch"], "sketch", most=_SKETCH)]}
            )
        except (OSError, KeyError, BadInputError):
            continue
    return found
