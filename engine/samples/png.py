"""Writing sets as PNG files, in a folder, a zip file or a tar file."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from jboost.engine.errors import BadInputError
from jboost.engine.system.names import path_inside
from jboost.engine.system.typed import load_json

from .classes import DATASET_JSON
from .images import ImageSamples


def encode(image: np.ndarray[Any, Any]) -> bytes:
    """One image uint8 [H, W, C] as the bytes of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def png_names(count: int) -> list[str]:
    """Names, in order, for a set without names: ``000000.png`` and so on."""
    width = max(6, len(str(count - 1)))
    return [f"{i:0{width}d}.png" for i in range(count)]


def names_as_png(names: list[str]) -> list[str]:
    """The names that a set's images get as PNGs, in an order that sorting keeps.

    ``a.jpg`` becomes ``a.png``. Where that would give two images one name, or another order, all keep their suffix before
    the new one: ``a.jpg.png``.
    """
    short = [n if n.lower().endswith(".png") else str(PurePosixPath(n).with_suffix(".png")) for n in names]
    if len({n.casefold() for n in short}) == len(names) and sorted(short) == short:
        return short
    return [n if n.lower().endswith(".png") else f"{n}.png" for n in names]


def _companions(names: list[str], labels: np.ndarray[Any, Any] | None, source: ImageSamples | None) -> dict[str, bytes]:
    """The files beside the images: the source's; or a ``dataset.json`` if there is no source but there are labels.

    Labels do not become class folders: sorting by path would then change the images' order.
    """
    if source is not None:
        found = {name: source.bytes_of(name) for name in source.others}
        for name in found:
            if name.rpartition("/")[2] == DATASET_JSON and names != source.names:
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
    source: ImageSamples | None = None,
) -> None:
    """Write images as PNGs, under the source's names if one is given (see `names_as_png`).

    No file is written outside `out`, whatever its name says.

    Args:
        out: an empty folder, or a file for the archive.
        count: number of images.
        batches: uint8 [n, H, W, C], `count` images in total.
        kind: ``"folder"``, ``"zip"`` or ``"tar"``.
        labels: int64 [N], for a ``dataset.json`` if there is no source.
        source: the set whose names and other files the output takes over.
    """
    names = names_as_png(source.names) if source is not None else png_names(count)
    images = (encode(image) for batch in batches for image in batch)
    files = chain(zip(names, images, strict=True), _companions(names, labels, source).items())
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
