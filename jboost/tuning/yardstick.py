"""The reference and the features, opened once: the FID of many small sets of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jboost.engine.errors import BadInputError
from jboost.engine.samples import ReadOptions
from jboost.evaluation import Evaluation, evaluate
from jboost.evaluation.measure import Reference
from jboost.evaluation.metrics.bootstrap import resample_weights
from jboost.evaluation.metrics.frechet import frechet_distances
from jboost.evaluation.sets import Features, Source, open_source

from .subset import InMemory

Progress = Callable[[str, int, int], None]
_BOOSTED = Path("the boosted subset")  # as messages and progress bars name it
Numpy = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Ruler:
    """How features are asked for; see `jboost.evaluation.evaluate`.

    Attributes:
        reference: the reference's path.
        features, features_range, device, batch_size, trust_code, reading, protocol: as for `evaluate`.
    """

    reference: Path
    features: str | None
    features_range: int | None
    device: str
    batch_size: int | None
    trust_code: bool
    reading: ReadOptions
    protocol: str | None = None


class Yardstick:
    """Measures the FID of small sets.

    Args:
        ruler: reference and features.
        unboosted: npz file with the images to tune on; every other set has as many, of the same size.
        on_progress: called as the work proceeds, see `jboost.evaluation.evaluate.Progress`.

    Attributes:
        source: the reference, opened.
        start: the evaluation of `unboosted`, with what is to be said about its figures.

    Raises:
        BadInputError: the reference or the features cannot be used, or do not fit the images.
    """

    def __init__(self, ruler: Ruler, unboosted: Path, shape: tuple[int, ...], on_progress: Progress):
        self.source = open_source(ruler.reference, ruler.reading, reference=True)
        _check_size(self.source, shape)
        ready: list[tuple[Reference, Callable[[Source], Features]]] = []
        self.start: Evaluation = evaluate(
            ruler.reference, [unboosted], features=ruler.features, metrics=("fid",), batch_size=ruler.batch_size,
            device=ruler.device, resamples=0, trust_code=ruler.trust_code, reading=ruler.reading,
            features_range=ruler.features_range, protocol=ruler.protocol,
            on_ready=lambda *found: ready.append(found), on_progress=on_progress,
        )  # fmt: skip
        ((self._reference, self._features_of),) = ready
        measured = self.start.samples[0].metrics["fid"]
        if measured.value is None:
            raise BadInputError(f"no FID can be computed: {measured.unavailable}; give another --ref")
        self.unboosted, self.warning = measured.value, measured.warning

    def features(self, images: Numpy) -> Tensor:
        """Features float32 [n, D] of images uint8 [n, H, W, C]."""
        return self._features_of(Source(_BOOSTED, images=InMemory(_BOOSTED, images))).features

    def fid(self, features: Tensor) -> float:
        """The FID of features float32 [n, D]."""
        return float(self.resampled(features, 0, 0, lambda: None)[0])

    def resampled(self, features: Tensor, resamples: int, seed: int, on_step: Callable[[], None]) -> Tensor:
        """The FID, and that of bootstrap resamples, float64 [1 + resamples]; sets of one size share the resamples' draws."""
        assert self._reference.fid is not None
        weights = resample_weights(len(features), resamples, seed)
        return frechet_distances(features, self._reference.fid, weights, device=self.start.device, on_step=on_step)


def _check_size(source: Source, shape: tuple[int, ...]) -> None:
    """Refuse a reference of another size: every FID would measure the resolution as well."""
    if source.shape is None or source.shape[:2] == shape[:2]:
        return
    (h, w, _), (height, width) = source.shape, shape[:2]
    remedy = f"add --resize {height}" if source.images is not None else "give the reference's images"
    raise BadInputError(
        f"{source.path} has {w}x{h} images, the samples are {width}x{height}: every FID would measure the resolution as well; "
        f"{remedy}"
    )
