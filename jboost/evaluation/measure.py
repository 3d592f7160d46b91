"""Measure one sample set against a reference."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .metrics import kid, neighbours
from .metrics.bootstrap import change_interval, interval, resample_weights
from .metrics.frechet import Frechet, frechet_distances
from .metrics.inception_score import SPLITS, inception_scores, parts, scores_of_parts
from .metrics.moments import Moments, moments
from .protocols import Protocol
from .result import METRICS, Measured
from .rounding import Spread, check_scale, is_zero, near_zero
from .sets import Features

_OVERLAP = ("precision", "recall", "density", "coverage")
#: A set whose Inception Score rises by more when it is shuffled is sorted: parts of 5,000 miss some classes.
_SORTED = 1.1
#: Progress within a set: name of the task, steps done, total steps.
OnStep = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Reference:
    """The reference that samples are compared with.

    Attributes:
        name: name of the file, for messages.
        features: float32 [M, D]; None if it has statistics only.
        fid: computes distances to its features' moments; None if it has none.
        sfid: computes distances to its spatial features' moments; None if it has none.
        moments, spatial: the moments behind `fid` and `sfid`.
        of_file: whether the moments are statistics from a file, whose extractor nothing is known of.
    """

    name: str
    features: Tensor | None
    fid: Frechet | None
    sfid: Frechet | None
    moments: Moments | None = None
    spatial: Moments | None = None
    of_file: bool = False


@dataclass(frozen=True)
class Numbers:
    """`Measured` by key, the values behind each, [1 + R]: the estimate, then its resamples, and notes."""

    measured: dict[str, Measured]
    values: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)


def measure(
    samples: Features,
    reference: Reference,
    wanted: Collection[str],
    protocol: Protocol,
    *,
    name: str,
    resamples: int,
    seed: int,
    device: str,
    on_step: OnStep,
) -> Numbers:
    """Compute the metrics in `wanted`; an unavailable one gets the reason instead of a value.

    Args:
        samples: features of N images.
        reference: the reference to compare them with.
        wanted: keys of `jboost.evaluation.result.METRICS`.
        protocol: the conventions to follow.
        name: name of the samples, for messages.
        resamples, seed: number of resamples and seed of the bootstrap.
        device: device to compute on.
        on_step: called after each step, see `OnStep`.

    Raises:
        BadInputError: statistics from a file have another scale than the samples.
    """
    missing = {key: why for key in wanted if (why := why_unavailable(key, samples, reference)) is not None}
    able = [key for key in wanted if key not in missing]
    weights = resample_weights(samples.count, resamples, seed)
    values: dict[str, Tensor] = {}
    deviations: dict[str, float] = {}
    measured = {key: Measured(unavailable=why) for key, why in missing.items()}
    notes: list[str] = []
    if "fid" in able:
        assert reference.fid is not None
        assert reference.moments is not None
        if reference.of_file:
            spread = Spread.of_features(samples.features)
            check_scale(spread, Spread.of_moments(reference.moments), "FID", name, reference.name)
        steps = _Steps("FID", 1 + resamples, on_step)
        values["fid"] = frechet_distances(samples.features, reference.fid, weights, device=device, on_step=steps)
        if near_zero(float(values["fid"][0]), reference.moments):
            own = moments(samples.features, samples.features[:1024].double().mean(0), device=device)
            notes += _zero_if_equal("fid", values, own, reference.moments, name, reference.name)
    if "sfid" in able:
        assert reference.sfid is not None
        assert reference.spatial is not None
        assert samples.spatial is not None
        if reference.of_file:
            spread = Spread.of_moments(samples.spatial)
            check_scale(spread, Spread.of_moments(reference.spatial), "sFID", name, reference.name)
        values["sfid"] = torch.tensor([reference.sfid(samples.spatial)], dtype=torch.float64)
        if near_zero(float(values["sfid"][0]), reference.spatial):
            notes += _zero_if_equal("sfid", values, samples.spatial, reference.spatial, name, reference.name)
    if "kid" in able:
        assert reference.features is not None
        steps = _Steps("KID", kid.SUBSETS, on_step)
        values["kid"], deviations["kid"] = kid.kernel_distances(
            samples.features, reference.features, weights, device=device, on_step=steps
        )
    if "is" in able:
        assert samples.logits is not None
        values["is"], deviation = inception_scores(samples.logits, weights, protocol.part)
        if protocol.part is None:  # OpenAI's evaluator prints none
            deviations["is"] = deviation
    # Inception's features are those that OpenAI's float16 distances are known of; another network's may not even fit float16.
    half = protocol.half and samples.identity.kind == "inception"
    for keys, rounded in ((_OVERLAP[:2], half), (_OVERLAP[2:], False)) if half else ((_OVERLAP, False),):
        if not set(able) & set(keys):
            continue
        assert reference.features is not None
        steps = _Steps("neighbours", neighbours.steps(samples.count, len(reference.features)), on_step)
        found = neighbours.overlap(
            samples.features, reference.features, weights, device=device, half=rounded, on_step=steps
        )
        values |= {key: getattr(found, key) for key in able if key in keys}
    for key, of_key in values.items():
        bounds = interval(of_key, METRICS[key].least, METRICS[key].most)
        measured[key] = Measured(
            value=float(of_key[0]),
            interval=None if bounds is None else (bounds.low, bounds.high),
            bootstrap_bias=None if bounds is None else bounds.bias,
            deviation=deviations.get(key),
            warning=_why_doubtful(key, samples, reference, protocol),
        )
    return Numbers({key: measured[key] for key in wanted}, values, notes)


def add_changes(before: Numbers, after: Numbers, *, paired: bool) -> None:
    """Fill in the change of `after` against `before`, in percent.

    Args:
        before, after: the numbers of two sets, computed with the same `resamples` and `seed`.
        paired: whether the sets have the same size, so that their resamples drew the same positions.
    """
    for key, now in after.measured.items():
        then = before.measured[key].value
        if now.value is None or then is None or then <= 0:
            continue
        now.change_percent = 100 * (now.value / then - 1)
        if paired:
            now.change_interval = change_interval(before.values[key], after.values[key])


def why_unavailable(key: str, samples: Features, reference: Reference) -> str | None:
    """Why the metric `key` cannot be computed; None if it can."""
    if samples.count < 2:
        return "needs at least 2 images"
    if key == "fid":
        return None if reference.fid is not None else f"{reference.name} has fewer than 2 images"
    if key == "sfid":
        if samples.spatial is None:
            return "the extractor gives no spatial features"
        return None if reference.sfid is not None else f"{reference.name} has no mu_s and sigma_s"
    if key == "is":
        return None if samples.logits is not None else "the extractor gives no logits or probabilities"
    if reference.features is None:
        return f"{reference.name} holds statistics only: this needs the reference's images"
    if key == "kid":
        return None if len(reference.features) > 1 else f"{reference.name} has fewer than 2 images"
    # The balls of all four metrics are computed together.
    if len(reference.features) <= neighbours.DENSITY_K or samples.count <= neighbours.PRECISION_K:
        return f"needs more than {neighbours.DENSITY_K} reference images and more than {neighbours.PRECISION_K} samples"
    return None


def _zero_if_equal(
    key: str, values: dict[str, Tensor], samples: Moments, reference: Moments, name: str, other: str
) -> list[str]:
    """Replace a distance that is no larger than its rounding error by 0, and say so."""
    title, device = METRICS[key].title, str(reference.mu.device)
    if not is_zero(float(values[key][0]), samples.to(device), reference, title, name):
        return []
    values[key][0] = 0.0
    return [f"{title} 0: the statistics of {name} equal those of {other} within rounding"]


def _why_doubtful(key: str, samples: Features, reference: Reference, protocol: Protocol) -> str | None:
    if key in ("fid", "sfid"):
        other = reference.fid if key == "fid" else reference.sfid
        assert other is not None
        dimensions = other.dimensions
        counts = ((samples.count, "samples"), (other.count, "reference images"))
        few = [f"{count:,} {whose}" for count, whose in counts if count is not None and count <= dimensions]
        if few:
            return (
                f"{' and '.join(few)} for {dimensions:,} dimensions: the covariance is singular and the distance too high; "
                "compare it only with a distance at the same numbers of images"
            )
    if key == "kid" and reference.features is not None:
        size = min(samples.count, len(reference.features))
        if size < kid.SUBSET_SIZE:
            return f"subsets of {size:,} images instead of the customary {kid.SUBSET_SIZE:,}"
    if key == "is" and samples.logits is not None:
        classes = samples.logits.shape[1]
        if protocol.part is not None:
            return _why_parts_are_doubtful(samples.logits, protocol.part)
        splits = min(SPLITS, samples.count)
        if samples.count < splits * classes:
            return f"{samples.count:,} images in {splits} splits for {classes:,} classes: the score is too low"
    return None


def _why_parts_are_doubtful(logits: Tensor, size: int) -> str | None:
    count, classes = logits.shape
    sizes = [len(part) for part in parts(count, size)]
    reasons = []
    short = sizes[-1] < classes
    if short:
        whose = f"{count:,} images" if len(sizes) == 1 else f"the last of {len(sizes)} parts has {sizes[-1]:,} images"
        reasons.append(f"{whose} for {classes:,} classes: the score is too low")
    if len(sizes) > 1:
        scores, shuffled = (scores_of_parts(logits, size, shuffled=order) for order in (False, True))
        # The score of a part with fewer images than classes depends on which few it has, also in a shuffled set.
        compared = len(sizes) - 1 if short else len(sizes)
        if shuffled[:compared].mean() > _SORTED * scores[:compared].mean():
            reasons.append(
                f"the set is sorted: shuffled, its parts of {size:,} images score {float(shuffled.mean()):.2f}; OpenAI's evaluator "
                "does not shuffle, so shuffle the images before you save them, or compare with --protocol torch-fidelity"
            )
    return "; ".join(reasons) or None


class _Steps:
    """Counts the steps of one part of the work."""

    def __init__(self, what: str, total: int, on_step: OnStep):
        self._what, self._total, self._on_step = what, total, on_step
        self._done = 0

    def __call__(self) -> None:
        self._done += 1
        self._on_step(self._what, self._done, self._total)
