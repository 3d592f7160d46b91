"""Extract features from images in batches, so that the images are never all in memory at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from jboost.engine.errors import BadInputError
from jboost.engine.loop.pipeline import ReadAhead
from jboost.engine.samples import SampleSet

from .extractors.base import Extractor, Numpy, Outputs
from .metrics.moments import RunningMoments
from .sets import Features


def extract(
    images: SampleSet,
    extractor: Extractor,
    *,
    batch_size: int,
    keep_logits: bool,
    device: str = "cpu",
    on_progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """Extract the features of a set.

    Args:
        images: a set of N images.
        extractor: gives features float32 [B, D], and perhaps logits and spatial features; only the moments of spatial
            features are kept.
        batch_size: number of images at a time.
        keep_logits: whether to keep logits: Inception's 1,008 take half as much memory as its features.
        device: device that computes the moments.
        on_progress: called with the number of images done.

    Raises:
        BadInputError: features are not finite, or the extractor raises it.
    """
    n, h, w, c = images.shape
    features: Numpy | None = None
    logits: Numpy | None = None
    spatial: RunningMoments | None = None
    with ReadAhead(images.read, np.arange(n), batch_size) as chunks:
        for indices, batch in chunks:
            out = extractor(batch)
            _check_finite(out, extractor, images, int(indices[-1]) + 1)
            if features is None:
                features = np.empty((n, out.features.shape[1]), np.float32)
                logits = (
                    None if out.logits is None or not keep_logits else np.empty((n, out.logits.shape[1]), np.float32)
                )
                spatial = None if out.spatial is None else RunningMoments()
            features[indices] = out.features
            if logits is not None and out.logits is not None:
                logits[indices] = out.logits
            if spatial is not None and out.spatial is not None:
                spatial.add(torch.from_numpy(out.spatial).to(device))
            on_progress(int(indices[-1]) + 1)
    assert features is not None  # a set has at least one image
    kept = None if spatial is None or n < 2 else spatial.finish().to("cpu")
    rows = None if logits is None else torch.from_numpy(logits)
    return Features(n, (h, w, c), extractor.identity, torch.from_numpy(features), rows, kept)


def _check_finite(out: Outputs, extractor: Extractor, images: SampleSet, seen: int) -> None:
    bad = np.zeros(len(out.features), bool)
    for array in out:
        if array is not None:
            bad |= ~np.isfinite(array).all(1)
    if bad.any():
        raise BadInputError(
            f"the extractor {extractor.identity.source} gave NaN or infinite features for {int(bad.sum())} of {len(bad)} images "
            f"of {images.path} (images {seen - len(bad)} to {seen - 1}); no number could be trusted: check its weights and dtype"
        )
