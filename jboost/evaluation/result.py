"""What an evaluation gives: numbers, with everything that one must know to compare them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from .extractors.base import Identity


@dataclass(frozen=True)
class Metric:
    """A number's name, its direction, and the values that it can take."""

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
        Metric("kid", "KID", True, least=-math.inf),  # unbiased, so that it may fall below zero
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
        value: None where it is not available.
        interval: its bootstrap interval at 95%; None without one.
        bootstrap_bias: by how much the resamples lay above the value on average; the interval is moved by minus that.
        deviation: what is customarily given behind ±: of KID between subsets, of the Inception Score between splits.
        change_percent: against the first set; None for the first set, and where that is not above zero.
        change_interval: at 95%; None where the sets' sizes differ.
        unavailable: why there is no value, or None.
        warning: why the value is not to be trusted, or None.
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
        images: how many.
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
        extractor: which features.
        dimensions: of the features.
        reference: path of the reference.
        reference_kind: ``"images"``, ``"features"``, ``"statistics"`` or ``"statistics and images"``.
        reference_images: how many; None where a file of statistics does not tell.
        samples: in the order they were given; the first one is what the others are compared with.
        resamples, seed: of the bootstrap.
        device: where it was computed.
        seconds: of work.
        warnings: what concerns the whole.
    """

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
        """As ``--json`` writes it."""
        return {
            "extractor": self.extractor.to_dict() | {"dimensions": self.dimensions},
            "reference": {"path": self.reference, "kind": self.reference_kind, "images": self.reference_images},
            "samples": [asdict(sample) for sample in self.samples],
            "bootstrap": {"resamples": self.resamples, "seed": self.seed, "level": 0.95},
            "device": self.device,
            "seconds": self.seconds,
            "warnings": self.warnings,
        }
