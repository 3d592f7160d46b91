"""A whole evaluation: open and check the sets, extract their features, compute the metrics."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np

from jboost.engine.backends.torch_device import find_device
from jboost.engine.errors import BadInputError
from jboost.engine.samples import ReadOptions, SampleSet
from jboost.engine.samples.options import AS_IT_IS
from jboost.engine.system.devices import device_kind

from .agreement import check_agreement, choose_protocol
from .extract import extract
from .extractors.base import INCEPTION_URL, Extractor, Identity, Outputs
from .extractors.open import open_extractor
from .measure import Numbers, Reference, add_changes, measure
from .metrics.frechet import Frechet
from .metrics.moments import Moments, moments
from .result import METRICS, Evaluation, SampleResult
from .rounding import check_constant
from .sets import Features, Source, open_sources, save_features
from .suspicion import check_features, images_vary

#: Called with the name of the current task, the amount done, and the total.
Progress = Callable[[str, int, int], None]
# Inception's first layers take 20 MB an image.
_BATCH = {"cpu": 16, "cuda": 128}
_LEAST_RESAMPLES = 20  # with fewer, a 95% interval has no meaning
_FROM_STATISTICS = {"fid", "sfid"}


def evaluate(
    reference: str | Path,
    samples: Sequence[str | Path],
    *,
    features: str | None = None,
    protocol: str | None = None,
    metrics: Sequence[str] | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    resamples: int = 100,
    seed: int = 0,
    save: Path | None = None,
    trust_code: bool = False,
    reading: ReadOptions = AS_IT_IS,
    on_open: Callable[[SampleSet], None] = lambda samples: None,
    features_range: int | None = None,
    on_ready: Callable[[Reference, Callable[[Source], Features]], object] = lambda reference, features_of: None,
    on_progress: Progress = lambda what, done, total: None,
) -> Evaluation:
    """Measure sample sets against a reference.

    Args:
        reference: an npz of images, of saved features or of statistics (``mu``, ``sigma``, perhaps ``mu_s``,
            ``sigma_s``), or a folder, zip or tar of image files.
        samples: sets of images or of saved features; all others are compared with the first.
        features: see `open_extractor`; None if every set holds saved features.
        protocol: ``"openai"``, ``"torch-fidelity"`` or ``"pytorch-fid"``, see `jboost.evaluation.protocols`; None: see
            `jboost.evaluation.agreement.choose_protocol`.
        metrics: keys of `METRICS`; None for all.
        batch_size: images at a time; None for 16 on a CPU, 128 on a GPU. It does not change the results.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        resamples: number of bootstrap resamples; 0 for no intervals.
        seed: seed of the bootstrap.
        save: npz file to save the reference's features to.
        trust_code: run the extractor's code, whoever made it; see `open_extractor`.
        reading: how to read image sets.
        on_open: called with every set of images once it is open.
        features_range: the value of white in the extractor's input, see `open_extractor`; 1 or 255, None: settled by the
            extractor, and features that hardly vary are refused if they vary with the other range.
        on_ready: called with the reference, prepared, and with what extracts a set's features as this evaluation does, before
            the sets are measured. Both may be kept to measure more sets; they must be images like the ones checked here.
        on_progress: called as the work proceeds, see `Progress`.

    Raises:
        BadInputError: a set, the extractor or an option cannot be used, or they do not fit together.
    """
    start = perf_counter()
    wanted = _check_options(metrics, resamples, batch_size)
    ref, sets, warnings = open_sources(reference, samples, reading)
    for source in (ref, *sets):
        if source.images is not None:
            on_open(source.images)
    _check_save(save, ref)
    warnings += [f"{s.path}: {note}" for s in (ref, *sets) if s.images is not None for note in s.images.notes]
    warnings += _compare_shapes(ref, sets)
    where = find_device(device)
    followed = choose_protocol(protocol, ref, sets)
    opened = partial(open_extractor, trust_code=trust_code, tensorflow=followed.tensorflow)
    identity, extractor = _settle_extractor(features, device, [ref, *sets], opened, features_range)
    if identity.kind == "inception":
        warnings += check_agreement(followed, protocol, ref, sets)
        warnings += followed.notes(wanted, {key: metric.title for key, metric in METRICS.items()})
    warnings += _settle_statistics(ref, identity)
    if identity.remark is not None:
        warnings.append(f"{identity.source}: {identity.remark}")
    if identity.kind == "inception" and any(source.shape and source.shape[2] == 1 for source in (ref, *sets)):
        warnings.append("grey images: their channel is repeated for Inception, which was trained on colour images")
    dimensions = _check_dimensions(extractor, ref, sets)

    in_other_range = None
    if features is not None and features_range is None and identity.input_max == 1 and identity.kind != "bundle":
        in_other_range = partial(opened, features, device, full=255)

    def features_of(source: Source) -> Features:
        if source.features is not None:
            return source.features
        assert source.images is not None
        assert extractor is not None
        total = source.images.shape[0]
        found = extract(
            source.images,
            extractor,
            keep_logits=source is not ref or save is not None,
            batch_size=batch_size or _BATCH[device_kind(where)],
            device=where,
            on_progress=lambda done: on_progress(f"features of {source.path.name}", done, total),
        )
        found.protocol = followed.name
        warnings.extend(check_features(found, source, in_other_range))
        return found

    def measured(source: Source) -> tuple[SampleResult, Numbers]:
        # A function, so that one set's features are freed before the next set's are computed.
        def on_step(what: str, done: int, total: int) -> None:
            on_progress(f"{what} of {source.path.name}", done, total)

        found = features_of(source)
        if compared.moments is not None and found.count > 1 and images_vary([source, ref]):
            check_constant(found.features, compared.moments, str(source.path), str(ref.path))
        numbers = measure(
            found, compared, wanted, followed, name=str(source.path), resamples=resamples, seed=seed, device=where,
            on_step=on_step,
        )  # fmt: skip
        warnings.extend(numbers.notes)
        return SampleResult(str(source.path), found.count, found.shape, numbers.measured), numbers

    compared, count = _prepare_reference(ref, wanted, features_of, save, where)
    on_ready(compared, features_of)
    results: list[SampleResult] = []
    first: tuple[Numbers, int] | None = None
    for source in sets:
        result, numbers = measured(source)
        if first is None:
            first = numbers, result.images
        else:
            add_changes(first[0], numbers, paired=result.images == first[1])
        results.append(result)
    if len({result.images for result in results}) > 1:
        warnings.append("the sample sets differ in size, and FID falls as images are added: compare sets of one size")
    return Evaluation(
        protocol=followed.name,
        extractor=identity,
        dimensions=dimensions,
        reference=str(ref.path),
        reference_kind=ref.kind,
        reference_images=count,
        samples=results,
        resamples=resamples,
        seed=seed,
        device=where,
        seconds=perf_counter() - start,
        warnings=warnings,
    )


def _check_options(metrics: Sequence[str] | None, resamples: int, batch_size: int | None) -> list[str]:
    unknown = [key for key in metrics or () if key not in METRICS]
    if unknown:
        raise BadInputError(f"unknown metric {unknown[0]!r}; choose from {','.join(METRICS)}")
    if resamples != 0 and resamples < _LEAST_RESAMPLES:
        raise BadInputError(f"a 95% interval needs at least {_LEAST_RESAMPLES} resamples (0 for none), got {resamples}")
    if batch_size is not None and batch_size < 1:
        raise BadInputError(f"batch size must be at least 1, got {batch_size}")
    return [key for key in METRICS if metrics is None or key in metrics]


def _check_save(save: Path | None, ref: Source) -> None:
    if save is None:
        return
    if save.suffix.lower() != ".npz" or save.is_dir() or not save.resolve().parent.is_dir():
        raise BadInputError(f"--save-features {save} must be an .npz file in a folder that exists")
    if ref.images is None:
        raise BadInputError(
            f"--save-features saves the features of the reference's images; {ref.path} holds {ref.kind} only"
        )
    if save.resolve() == ref.path.resolve():
        raise BadInputError(f"--save-features {save} is the reference itself; name another file")


def _compare_shapes(ref: Source, sets: Sequence[Source]) -> list[str]:
    """Return warnings about image sizes that differ.

    Raises:
        BadInputError: some sets are grey and others are in colour.
    """
    known = [(source.path, source.shape) for source in (ref, *sets) if source.shape is not None]
    (first_path, (h, w, c)), *others = known
    warnings = []
    for path, (height, width, channels) in others:
        if channels != c:
            raise BadInputError(
                f"{first_path} has {c} channel(s) and {path} has {channels}: every number would measure the colour; repeat "
                "the grey channel with --channels 3, or make all sets grey"
            )
        if (height, width) != (h, w):
            warnings.append(
                f"{first_path} has {w}x{h} images and {path} {width}x{height}: the numbers measure the resolution as well"
            )
    return warnings


def _settle_extractor(
    spec: str | None, device: str, sources: Sequence[Source], opened: Callable[..., Extractor], full: int | None
) -> tuple[Identity, Extractor | None]:
    """Choose the extractor of all `sources`, and its identity; the extractor is None if all sources are saved features.

    Raises:
        BadInputError: no extractor is named, or saved features come from another one.
    """
    kept = [source for source in sources if source.features is not None]
    extractor = None if spec is None else opened(spec, device, full=full)
    if extractor is None and (not kept or any(s.images is not None for s in sources)):
        raise BadInputError(
            "--features is missing: name the extractor to compare by; numbers that compare with papers need Inception's "
            f"weights, {INCEPTION_URL} (jboost does not download them)"
        )
    identity = kept[0].features.identity if extractor is None and kept[0].features else None
    if extractor is not None:
        identity = extractor.identity
    assert identity is not None
    for source in kept:
        assert source.features is not None
        other = source.features.identity
        if (other.kind, other.sha256) == (identity.kind, identity.sha256) and other.input_max != identity.input_max:
            raise BadInputError(
                f"the features in {source.path} were made with inputs in 0 to {other.input_max:g}, the others with 0 to "
                f"{identity.input_max:g}; give the range that they were made with: --features-range {other.input_max:g}"
            )
        if (other.kind, other.sha256) != (identity.kind, identity.sha256):
            raise BadInputError(
                f"the features in {source.path} come from {other.source} (SHA-256 {other.sha256[:12]}), the others from "
                f"{identity.source} ({identity.sha256[:12]}): they do not compare; use one extractor for all"
            )
    return identity, extractor


def _settle_statistics(ref: Source, identity: Identity) -> list[str]:
    """Decide whether to use a reference's statistics, and return warnings about it.

    Files do not name their extractor; published statistics use Inception.
    """
    if ref.moments is None:
        return []
    if ref.images is None and ref.features is None:
        if identity.kind == "inception":
            return []
        return [
            f"{ref.path} does not say which extractor its statistics come from; if not {identity.source}, FID means nothing"
        ]
    count = _count(ref)
    if identity.kind != "inception":
        ref.moments = ref.spatial = None
        return [
            f"the statistics in {ref.path} are ignored, since published ones use Inception; its {count:,} images are used"
        ]
    return [f"FID and sFID use the statistics in {ref.path}, the other numbers its {count:,} images"]


def _check_dimensions(extractor: Extractor | None, ref: Source, sets: Sequence[Source]) -> int:
    """Try the extractor on each size of image, to find misfits before the work; return the features' dimensions.

    Raises:
        BadInputError: the extractor fails, or dimensions differ.
    """
    found: dict[Path, tuple[int, int | None]] = {}
    tried: dict[tuple[int, int, int] | None, Outputs] = {}
    for source in (ref, *sets):
        if source.features is not None:
            spatial = source.features.spatial
            found[source.path] = source.features.features.shape[1], None if spatial is None else len(spatial.mu)
        elif source.images is not None:
            assert extractor is not None
            if source.shape not in tried:
                # Two images: with one alone, a network that squeezes the batch axis away would go unnoticed.
                tried[source.shape] = extractor(source.images.read(np.arange(min(2, source.images.shape[0]))))
            out = tried[source.shape]
            found[source.path] = out.features.shape[1], None if out.spatial is None else out.spatial.shape[1]
    (path, (dimensions, spatial_dimensions)), *others = found.items()
    for other, (d, _) in others:
        if d != dimensions:
            raise BadInputError(
                f"the features of {path} have {dimensions:,} dimensions, those of {other} {d:,}; the extractor must give the "
                "same number for every image size: pool inside the network"
            )
    for name, moments_of, own in (("mu", ref.moments, dimensions), ("mu_s", ref.spatial, spatial_dimensions)):
        if moments_of is not None and own is not None and len(moments_of.mu) != own:
            raise BadInputError(
                f"{ref.path}: {name} has {len(moments_of.mu):,} dimensions, the extractor gives {own:,}; the reference comes "
                "from another extractor: use that one, or a reference with images"
            )
    return dimensions


def _prepare_reference(
    ref: Source, wanted: Collection[str], features_of: Callable[[Source], Features], save: Path | None, device: str
) -> tuple[Reference, int | None]:
    """Prepare the reference for all metrics; return it and its number of images."""
    mean, spatial = ref.moments, ref.spatial
    kept = ref.features
    if kept is None and ref.images is not None and (save or mean is None or set(wanted) - _FROM_STATISTICS - {"is"}):
        kept = features_of(ref)
        if save is not None:
            save_features(save, kept, mean, spatial)
    if kept is not None and mean is None:
        mean = _moments_of(kept, device) if kept.count > 1 else None
        spatial = kept.spatial
    of_file = ref.moments is not None
    reference = Reference(
        str(ref.path),
        None if kept is None else kept.features,
        fid=Frechet(mean, device) if mean is not None and "fid" in wanted else None,
        sfid=Frechet(spatial, device) if spatial is not None and "sfid" in wanted else None,
        moments=mean,
        spatial=spatial,
        of_file=of_file,
    )
    return reference, _count(ref)


def _count(source: Source) -> int | None:
    """The number of images; None if the file does not give it."""
    if source.features is not None:
        return source.features.count
    return None if source.images is None else source.images.shape[0]


def _moments_of(kept: Features, device: str) -> Moments:
    shift = kept.features[:1024].double().mean(0)
    return moments(kept.features, shift, device=device)
