"""The picture: one image of each class, before and after boosting, above real images of the same class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from data import CLASSES, Labelled
from PIL import Image

from jboost.grid import draw_grid


def save_grid(path: Path, rows: list[tuple[str, Labelled]], cell: int = 80) -> None:
    """Save ten columns, one per class, each with the first image of that class: nothing is picked by eye."""
    draw_grid([(name, _first_of_each_class(images)) for name, images in rows], CLASSES, cell=cell).convert(
        "P", palette=Image.Palette.ADAPTIVE
    ).save(path, optimize=True)


def _first_of_each_class(images: Labelled) -> np.ndarray:
    """The first image of each class: uint8 [10, H, W, 1]."""
    x, labels = images
    first = torch.stack([x[(labels == c).nonzero()[0, 0]] for c in range(len(CLASSES))])
    return (first * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
