"""Writing sets as PNG files, in a folder, a zip file or a tar file."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.system.names import path_inside
from jboost.engine.system.typed import load_json

from .base import SampleSet
from .classes import DATASET_JSON
from .encode import encode, singly
from .images import ImageSamples
from .naming import file_names, suffix_of, written_names


def _companions(names: list[str], labels: np.ndarray[Any, Any] | None, source: ImageSamples | None) -> dict[str, bytes]:
    """The files beside the images: the source's; or a ``dataset.json`` if there is no source but there are labels.

    Labels do not become class folders: sorting by path would then change the images' order.
    """
    if source is not None:
        found = {name: source.bytes_of(name) for name in source.others}
        for name in found:
            if name.rpartition("/")[2] == DATASET_JSON and (names != source.names or b"\\" in found[name]):
                prefix = name.removesuffix(DATASET_JSON)
                found[name] = _renamed(found[name], prefix, dict(zip(source.names, names, strict=True)))
        return found
    if labels is None:
        return {}
    pairs = [[name, int(c)] for name, c in zip(names, labels, strict=True)]
    return {DATASET_JSON: json.dumps({"labels": pairs}).encode()}


def _renamed(text: bytes, prefix: str, new: dict[str, str]) -> bytes:
    """A ``dataset.json`` with the images' new names; whatever else it says is kept."""
    try:
        content = load_json(text)
    except BadInputError:  # nobody reads labels from it
        return text
    if not isinstance(content, dict) or not isinstance(content.get("labels"), list):
        return text
    for pair in content["labels"]:
        if isinstance(pair, list) and pair and isinstance(pair[0], str):
            name = pair[0].replace("\\", "/")
            pair[0] = new.get(prefix + name, prefix + name).removeprefix(prefix)
    return json.dumps(content).encode()


def write_pngs(
    out: Path,
    count: int,
    batches: Iterator[np.ndarray[Any, Any]],
    *,
    kind: str,
    labels: np.ndarray[Any, Any] | None = None,
    source: SampleSet | None = None,
    lossy: bool = False,
) -> None:
    """Write images as PNGs, under the source's names if it has some (see `written_names`).

    No file is written outside `out`, whatever its name says.

    Args:
        out: an empty folder, or a file for the archive.
        count: number of images.
        batches: uint8 [n, H, W, C], `count` images in total.
        kind: ``"folder"``, ``"zip"`` or ``"tar"``.
        labels: int64 [N], for a ``dataset.json`` if the source is no set of image files.
        source: the set whose names the output takes over; if it is one of image files, also its other files.
        lossy: whether JPEGs stay JPEGs.
    """
    own = source if isinstance(source, ImageSamples) else None
    written = written_names(source, lossy=lossy)
    names = written if own is not None and written is not None else file_names(written, count)
    images = (encode(image, suffix_of(name)) for name, image in zip(names, singly(batches), strict=True))
    files = chain(zip(names, images, strict=True), _companions(names, labels, own).items())
    # Fixed dates: the same images give the same bytes.
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as archive:
            for name, data in files:
                archive.writestr(zipfile.ZipInfo(name), data)
        return
    if kind == "tar":
        with tarfile.open(out, "w") as tar:
            for name, data in files:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return
    for name, data in files:
        path = path_inside(out, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
