"""The result of an evaluation: numbers, with all that a reader needs to compare them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from .extractors.base import Identity


@dataclass(frozen=True)
class Metric:
    """A metric's name, its direction, and its range."""

    key: str
    title: str
    lower_is_better: bool
    least: float = 0.0
    most: float = math.inf


METRICS = {
    metric.key: metric
    for metric in (
        Metric("fid", "FID", True),
        Metric("sfid", "sFID", True),
        Metric("kid", "KID", True, least=-math.inf),  # unbiased, so it may fall below zero
        Metric("is", "Inception Score", False, least=1.0),
        Metric("precision", "precision", False, most=1.0),
        Metric("recall", "recall", False, most=1.0),
        Metric("density", "density", False),
        Metric("coverage", "coverage", False, most=1.0),
    )
}


@dataclass
class Measured:
    """One number of one sample set.

    Attributes:
        value: the value; None if it is not available.
        interval: its 95% bootstrap interval; None without one.
        bootstrap_bias: mean of the resamples minus the value; the interval is shifted by minus this.
        deviation: the standard deviation customarily given behind ±: of KID between subsets, of the Inception Score
            between splits.
        change_percent: change against the first set; None for the first set, or if the first set's value is not above
            zero.
        change_interval: its 95% interval; None if the sets differ in size.
        unavailable: why there is no value, or None.
        warning: why the value should not be trusted, or None.
    """

    value: float | None = None
    interval: tuple[float, float] | None = None
    bootstrap_bias: float | None = None
    deviation: float | None = None
    change_percent: float | None = None
    change_interval: tuple[float, float] | None = None
    unavailable: str | None = None
    warning: str | None = None


@dataclass
class SampleResult:
    """The numbers of one sample set.

    Attributes:
        path: the file or folder.
        images: number of images.
        size: [height, width, channels].
        metrics: by key, see `METRICS`.
    """

    path: str
    images: int
    size: tuple[int, int, int]
    metrics: dict[str, Measured] = field(default_factory=dict)


@dataclass
class Evaluation:
    """Everything that `jboost eval` shows.

    Attributes:
        protocol: name of the protocol that the numbers follow.
        extractor: identity of the extractor.
        dimensions: number of dimensions of the features.
        reference: path of the reference.
        reference_kind: ``"images"``, ``"features"``, ``"statistics"``, ``"statistics and images"`` or
            ``"statistics and features"``.
        reference_images: number of its images; None if a file of statistics does not give it.
        samples: results in the order of the sets; all others are compared with the first.
        resamples, seed: number of resamples and seed of the bootstrap.
        device: device that computed the numbers.
        seconds: duration of the evaluation.
        warnings: warnings about the evaluation as a whole.
    """

    protocol: str
    extractor: Identity
    dimensions: int
    reference: str
    reference_kind: str
    reference_images: int | None
    samples: list[SampleResult]
    resamples: int
    seed: int
    device: str
    seconds: float
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The evaluation as ``--json`` writes it."""
        return {
            "protocol": self.protocol,
            "extractor": self.extractor.to_dict() | {"dimensions": self.dimensions},
            "reference": {"path": self.reference, "kind": self.reference_kind, "images": self.reference_images},
            "samples": [asdict(sample) for sample in self.samples],
            "bootstrap": {"resamples": self.resamples, "seed": self.seed, "level": 0.95},
            "device": self.device,
            "seconds": self.seconds,
            "warnings": self.warnings,
        }
