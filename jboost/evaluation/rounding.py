"""Recognise distances that rounding made: of features that hardly vary, of two scales, or of two equal sets."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jboost.engine.errors import BadInputError

from .metrics.moments import Moments

#: Deviation relative to size below which features are constants, but for the rounding of a network in float32.
CONSTANT = 1e-5
#: Relative size of the rounding errors of features: float32 has 6e-8, and a network adds some.
_OF_FEATURES = 1e-6
#: A Fréchet distance below it is of features that nobody's numbers are of: Inception's are 1e-3 or more.
_SMALLEST = 1e-8
#: Distances below this share of the reference's variance are compared with their rounding errors.
_NEAR_ZERO = 1e-3
#: Sizes of two sets of features that differ by more are of two scales.
_OTHER_SCALE = 50


@dataclass(frozen=True)
class Spread:
    """How large features are, and how far they vary: root mean squares per dimension.

    Attributes:
        size: of the features.
        deviation: of their differences from their means.
    """

    size: float
    deviation: float

    @classmethod
    def of_moments(cls, moments: Moments) -> Spread:
        """Of a mean and a covariance."""
        dimensions, variance = len(moments.mu), max(0.0, float(moments.sigma.trace()))
        return cls(
            math.sqrt((float(moments.mu.square().sum()) + variance) / dimensions), math.sqrt(variance / dimensions)
        )

    @classmethod
    def of_features(cls, features: Tensor) -> Spread:
        """Of features [N, D], in blocks: a copy in float64 would take twice their memory."""
        mean = features.mean(0, dtype=torch.float64)
        size = deviation = 0.0
        for start in range(0, len(features), 1024):
            rows = features[start : start + 1024]
            size += float(rows.double().square().sum())
            deviation += float((rows.double() - mean).square().sum())
        return cls(math.sqrt(size / features.numel()), math.sqrt(deviation / features.numel()))

    @property
    def variation(self) -> float:
        """The deviation relative to the size; 0 if all features are 0."""
        return self.deviation / self.size if self.size > 0 else 0.0


def check_scale(samples: Spread, statistics: Spread, what: str, of: str, reference: str) -> None:
    """Check that samples have the scale of statistics from a file, which does not name the extractor that made them.

    Args:
        samples, statistics: of both sides.
        what, of, reference: the metric, the samples and the statistics' file, for the message.

    Raises:
        BadInputError: their sizes differ by orders of magnitude.
    """
    low, high = sorted((samples.size, statistics.size))
    # Images that are all alike may have any features, also zeros.
    if high > _OTHER_SCALE * low and samples.variation > CONSTANT:
        raise BadInputError(
            f"no {what} of {of}: its features are {samples.size:.2g} in the root mean square, those behind the statistics in "
            f"{reference} {statistics.size:.2g}, so the two have different scales; take the extractor that made the statistics, "
            "with the input and the output that it had then (--features-range tells its input), or give images as REF"
        )


def check_constant(features: Tensor, reference: Moments, of: str, name: str) -> None:
    """Check that features of two sets whose images vary are not one constant, so that distances measure more than rounding.

    Raises:
        BadInputError: both sides are the same constant within rounding.
    """
    spreads = Spread.of_features(features), Spread.of_moments(reference)
    apart = float((features.mean(0, dtype=torch.float64) - reference.mu.cpu()).square().mean().sqrt())
    both = max(spread.variation for spread in spreads)
    if both < CONSTANT and apart <= CONSTANT * max(spread.size for spread in spreads):
        raise BadInputError(
            f"the features of {of} and of {name} hardly vary (by {both:.1e} of their size): every distance would measure "
            "rounding errors. A network made for 0 to 255 needs --features-range 255; one that gives probabilities, as StyleGAN's "
            "script does by itself, must give the layer before them"
        )


def near_zero(value: float, reference: Moments) -> bool:
    """Whether `is_zero` must look at a Fréchet distance to `reference`."""
    return value <= max(_NEAR_ZERO * float(reference.sigma.trace()), _SMALLEST)


def is_zero(value: float, samples: Moments, reference: Moments, what: str, of: str) -> bool:
    """Whether a Fréchet distance is no larger than its rounding error: the two sets are the same, as far as it can tell.

    Args:
        value: the distance between the two, `near_zero`.
        samples, reference: on one device.
        what, of: the metric and the samples, for the message.

    Raises:
        BadInputError: it is larger, but so small that the features have another scale than any that distances are given of.
    """
    variance = float(samples.sigma.trace() + reference.sigma.trace())
    if value <= rounding_error(samples, reference):
        return True
    if max(value, variance) < _SMALLEST:
        raise BadInputError(
            f"{what} of {of} would be {value:.0e}, since the features vary by {math.sqrt(variance):.0e} only: they have another "
            "scale than any that such distances are given of. Give the extractor its own range of input (--features-range 255), "
            "and let it return features instead of probabilities, or multiply its output"
        )
    return False


def rounding_error(samples: Moments, reference: Moments) -> float:
    """A bound of the rounding error of a Fréchet distance that is near zero, float64 moments of float32 features.

    An eigenvalue e of R S R has an error of d = 8 eps times the largest; its square root one of d / (2 sqrt e), or sqrt d at 0.
    """
    values, vectors = torch.linalg.eigh(reference.sigma)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ samples.sigma.to(root.device) @ root).clamp_min(0)
    error = 8 * torch.finfo(torch.float64).eps * float(cross.max())
    of_roots = float((error / (2 * cross.sqrt().clamp_min(math.sqrt(error) / 2 + 1e-300))).sum())
    both = sum(float(m.mu.square().sum() + m.sigma.trace()) for m in (samples, reference))
    return 2 * of_roots + (_OF_FEATURES**2 + 8 * torch.finfo(torch.float64).eps) * both
