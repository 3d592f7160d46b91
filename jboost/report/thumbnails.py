"""Draw images before and after and their difference, as PNGs inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .inputs import Images, ReportInputs

#: If the PNGs take more bytes than this in total, they are drawn smaller.
BUDGET = 3_500_000
_GREY = 128
_FACTORS = (32, 16, 8, 4, 2, 1)

Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Thumbnail:
    """Thumbnails of one image, with its record.

    Attributes:
        index: the image's index in the set.
        before, after, difference: ``data:`` URIs of PNGs.
        label: name of the image's class, or None.
        realness_before, realness_after, steps, l2: figures from the image's record.
        remarks: flags from the image's record, as text.
    """

    index: int
    before: str
    after: str
    difference: str
    label: str | None
    realness_before: float
    realness_after: float
    steps: int
    l2: float
    remarks: list[str]


@dataclass(frozen=True)
class Thumbnails:
    """Thumbnails of all selected images.

    Attributes:
        by_index: thumbnails by the image's index, each image once.
        width, height: size of the thumbnails in pixels.
        shrunk: whole factor by which thumbnails are smaller than the images.
        amplified: factor by which the differences are amplified.
    """

    by_index: dict[int, Thumbnail]
    width: int
    height: int
    shrunk: int
    amplified: int


def draw_thumbnails(inputs: ReportInputs, indices: Indices) -> Thumbnails:
    """Draw the images at `indices` (any order, repeats allowed) and read no others.

    Raises:
        BadInputError: the sets are damaged or belong to another run.
    """
    unique = np.unique(indices)
    before, after = inputs.read(unique)
    difference = after.astype(np.int16) - before
    amplified = amplification(difference)
    shrunk = 1
    while True:
        triples = [
            (_png(shrink(b, shrunk)), _png(shrink(a, shrunk)), _png(signed_grey(shrink(d, shrunk), amplified)))
            for b, a, d in zip(before, after, difference, strict=True)
        ]
        if sum(len(uri) for triple in triples for uri in triple) <= BUDGET or min(before.shape[1:3]) < 4 * shrunk:
            break
        shrunk *= 2
    thumbnails = {int(i): _thumbnail(inputs, int(i), triple) for i, triple in zip(unique, triples, strict=True)}
    height, width = shrink(before[0], shrunk).shape[:2]
    return Thumbnails(thumbnails, width, height, shrunk, amplified)


def amplification(difference: np.ndarray[Any, Any]) -> int:
    """Return the largest factor of 1, 2, 4, ... 32 that clips at most 0.5% of the differences (in units of 1/255)."""
    large = float(np.quantile(np.abs(difference), 0.995))
    return next((factor for factor in _FACTORS if factor * large < _GREY), 1)


def signed_grey(difference: np.ndarray[Any, Any], factor: int) -> Images:
    """Draw a signed difference around mid-grey: brighter where it is positive; uint8, clipped at black and white."""
    grey: Images = np.rint(_GREY + factor * difference.astype(np.float64)).clip(0, 255).astype(np.uint8)
    return grey


def shrink(image: np.ndarray[Any, Any], factor: int) -> np.ndarray[Any, Any]:
    """Average squares of `factor` pixels of [H, W, C], in the same dtype; drop pixels left over at the far edges."""
    if factor == 1:
        return image
    h, w, c = (image.shape[0] // factor, image.shape[1] // factor, image.shape[2])
    blocks = image[: h * factor, : w * factor].reshape(h, factor, w, factor, c)
    averaged: np.ndarray[Any, Any] = np.rint(blocks.mean((1, 3))).astype(image.dtype)
    return averaged


def _png(image: Images) -> str:
    out = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def _thumbnail(inputs: ReportInputs, index: int, uris: tuple[str, str, str]) -> Thumbnail:
    record = inputs.run.records[index]
    remarks = [text for field, text in (("stopped", "stopped early"), ("retried", "retried in fp32")) if record[field]]
    if record["failed"]:
        remarks = ["failed, left unchanged"]
    return Thumbnail(
        index,
        *uris,
        label=None if inputs.labels is None else inputs.class_name(int(inputs.labels[index])),
        realness_before=float(record["realness_before"]),
        realness_after=float(record["realness_after"]),
        steps=int(record["steps"]),
        l2=float(record["l2"]),
        remarks=remarks,
    )
