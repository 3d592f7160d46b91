"""Real handwritten digits (scikit-learn's, 1,797 of 8x8 grey levels), enlarged, and sample sets on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

CLASSES = [str(digit) for digit in range(10)]
RESOLUTION = 16
TRAIN_IMAGES = 1200

Labelled = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Digits:
    """Images float32 [N, 1, 8, 8] in [0, 1] as scanned, and labels int64 [N]: 1,200 to train on, 597 held out."""

    train: Labelled
    held_out: Labelled


def load_digits(seed: int) -> Digits:
    from sklearn.datasets import load_digits as load

    images, labels = load(return_X_y=True)
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 16.0
    y = torch.from_numpy(labels).long()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, held_out = order[:TRAIN_IMAGES], order[TRAIN_IMAGES:]
    return Digits((x[train], y[train]), (x[held_out], y[held_out]))


def enlarge(x: torch.Tensor) -> torch.Tensor:
    """[N, 1, 8, 8] -> [N, 1, RESOLUTION, RESOLUTION], smoothly, in 256 grey levels as in a file."""
    x = F.interpolate(x, size=(RESOLUTION, RESOLUTION), mode="bicubic", align_corners=False)
    return quantise(x)


def quantise(x: torch.Tensor) -> torch.Tensor:
    """Round to 256 grey levels, as storing an image as uint8 does."""
    return (x.clamp(0, 1) * 255).round() / 255


def save_samples(path: Path, x: torch.Tensor, labels: torch.Tensor) -> None:
    """Write [N, C, H, W] in [0, 1] as a sample set: arr_0 uint8 [N, H, W, C], arr_1 int64 [N]."""
    images = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    np.savez_compressed(path, arr_0=images, arr_1=labels.numpy())


def load_samples(path: Path) -> Labelled:
    with np.load(path, allow_pickle=False) as file:
        images, labels = file["arr_0"], file["arr_1"]
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels).long()
