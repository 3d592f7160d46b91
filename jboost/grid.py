"""Draw images in labelled rows and columns, such as before above after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_GAP = 4
_MARGIN = 12
_INK, _PAPER = (34, 34, 34), (255, 255, 255)


def draw_grid(
    rows: Sequence[tuple[str, np.ndarray[Any, Any]]], columns: Sequence[str] = (), *, cell: int = 80
) -> Image.Image:
    """Draw images in rows.

    Args:
        rows: a name and images uint8 [n, H, W, C], C = 1 or 3, for each row; n, H and W are the same in all rows.
        columns: a name for each column; empty: no names.
        cell: least length of an image's longer side, in pixels; smaller images are enlarged by a whole factor.

    Returns:
        The picture, RGB.
    """
    count, height, width = rows[0][1].shape[:3]
    factor = max(1, -(-cell // max(height, width)))
    h, w = height * factor, width * factor
    font = ImageFont.load_default(size=15)
    left = _MARGIN + max(int(font.getlength(name)) for name, _ in rows) + _MARGIN
    top = _MARGIN + (22 if columns else 0)
    picture = Image.new(
        "RGB", (left + count * (w + _GAP) - _GAP + _MARGIN, top + len(rows) * (h + _GAP) - _GAP + _MARGIN), _PAPER
    )
    draw = ImageDraw.Draw(picture)
    for i, name in enumerate(columns):
        draw.text((left + i * (w + _GAP) + w // 2, _MARGIN), name, _INK, font, anchor="mt")
    for r, (name, images) in enumerate(rows):
        y = top + r * (h + _GAP)
        draw.text((_MARGIN, y + h // 2), name, _INK, font, anchor="lm")
        for i, image in enumerate(images):
            tile = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).convert("RGB")
            picture.paste(tile.resize((w, h), Image.Resampling.NEAREST), (left + i * (w + _GAP), y))
    return picture


def pick_evenly(labels: np.ndarray[Any, Any] | None, count: int, most: int = 12) -> np.ndarray[Any, Any]:
    """Pick at most `most` of `count` positions, in ascending order.

    With 2 to `most` classes these are the first image of each class, otherwise evenly spread images.
    """
    if labels is not None:
        _, first = np.unique(labels, return_index=True)
        if 1 < len(first) <= most:
            return np.sort(first)
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(np.int64))
