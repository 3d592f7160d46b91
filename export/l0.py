"""l0, the mean realness of real images (eq. 13): the target of ``joint`` and the threshold of early stopping."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from jboost.engine.backends.array_runner import to_float
from jboost.engine.errors import BadInputError
from jboost.engine.method.objectives import class_logit, realness
from jboost.engine.samples import SampleSet, check_against_model


@torch.no_grad()
def mean_realness(
    model: nn.Module, real: SampleSet, *, num_classes: int, in_channels: int, batch_size: int = 64
) -> float:
    """Mean of softplus(f_c) over a set of real images with their classes.

    Args:
        model: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes].
        real: the images and their labels.
        num_classes, in_channels: the model's.
        batch_size: images per forward pass.

    Raises:
        BadInputError: labels are missing or out of range, or the number of channels differs.
    """
    # A parquet file holds numbers, whatever it calls the classes; the numbers of named folders are only their order.
    numbered = real.label_names is None or (real.kind == "parquet" and len(real.label_names) == num_classes)
    if real.labels is None or not numbered:
        raise BadInputError(
            f"{real.path} has no class numbers ({real.label_source.removeprefix('none: ')}), which l0 (eq. 13) needs; give an npz "
            "with labels, a dataset.json that lists the classes, or images in two or more folders named by class number without a "
            "dataset.json"
        )
    check_against_model(real.labels, real.shape, num_classes=num_classes, in_channels=in_channels)
    total = 0.0
    for start in range(0, real.shape[0], batch_size):
        indices = np.arange(start, min(start + batch_size, real.shape[0]))
        logits = model(torch.from_numpy(to_float(real.read(indices))))
        total += float(realness(class_logit(logits, torch.from_numpy(real.labels[indices]))).double().sum())
    return total / real.shape[0]
