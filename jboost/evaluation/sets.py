"""The sets to compare: images, features saved by an earlier run, or a reference's statistics."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jboost.engine.errors import BadInputError
from jboost.engine.samples import ReadOptions, SampleSet, open_samples
from jboost.engine.samples.files import cannot_write
from jboost.engine.samples.keys import MissingKeyError
from jboost.engine.samples.options import AS_IT_IS
from jboost.engine.system.names import check_names
from jboost.engine.system.replacing import replacing

from .cached import read_cached
from .extractors.base import Identity
from .metrics.moments import Moments
from .protocols import PROTOCOLS, UNNAMED

Array = np.ndarray[Any, Any]
Shape = tuple[int, int, int]
# Names in a file of features for the statistics that the reference came with: mu_s and sigma_s are the images' own there.
_MU, _SIGMA, _MU_S, _SIGMA_S = (f"reference_{name}" for name in ("mu", "sigma", "mu_s", "sigma_s"))


@dataclass
class Features:
    """Features of a set.

    Attributes:
        count: N.
        shape: (H, W, C) of the images.
        identity: which extractor made them.
        features: float32 [N, D].
        logits: float32 [N, C], if the extractor gives them.
        spatial: moments of its spatial features, if it gives them.
        protocol: name of the protocol that they were made with; it matters for Inception's alone.
    """

    count: int
    shape: Shape
    identity: Identity
    features: Tensor = field(repr=False)
    logits: Tensor | None = field(default=None, repr=False)
    spatial: Moments | None = field(default=None, repr=False)
    protocol: str = UNNAMED


@dataclass
class Source:
    """An opened reference or sample file; at least one of its parts is present.

    Attributes:
        path: the file or folder.
        images: the images, not read yet.
        features: features saved by an earlier run.
        moments, spatial: statistics of a reference file; beside features, those that its images' file held.
        origin: protocol of the program that made the statistics; None if the file does not tell.
    """

    path: Path
    images: SampleSet | None = None
    features: Features | None = None
    moments: Moments | None = None
    spatial: Moments | None = None
    origin: str | None = None

    @property
    def shape(self) -> Shape | None:
        """(H, W, C) of its images; None if unknown."""
        if self.images is not None:
            _, h, w, c = self.images.shape
            return h, w, c
        return None if self.features is None else self.features.shape

    @property
    def kind(self) -> str:
        """``"images"``, ``"features"``, ``"statistics"``, ``"statistics and images"`` or ``"statistics and features"``."""
        if self.features is not None:
            return "features" if self.moments is None else "statistics and features"
        if self.moments is not None:
            return "statistics" if self.images is None else "statistics and images"
        return "images"


def open_source(path: str | Path, reading: ReadOptions = AS_IT_IS, *, reference: bool) -> Source:
    """Open a set of images, an npz of saved features or, for a reference, of statistics (or a file of torch-fidelity's cache).

    Args:
        path: the file or folder.
        reading: how to read images.
        reference: whether statistics are allowed.

    Raises:
        BadInputError: the file is none of these, is damaged, or holds statistics where images are needed.
    """
    path = Path(path)
    if (cached := read_cached(path)) is not None:
        if not reference:
            raise _only_statistics(path)
        return Source(path, moments=_check_moments(path, "mu", "sigma", *cached), origin="torch-fidelity")
    names = _npz_members(path)
    if "features" in names:
        kept = _read_features(path)
        if not reference or not names & {_MU, _SIGMA}:
            return Source(path, features=kept)
        return Source(
            path,
            features=kept,
            moments=_read_moments(path, names, _MU, _SIGMA),
            spatial=_read_moments(path, names, _MU_S, _SIGMA_S) if names & {_MU_S, _SIGMA_S} else None,
            origin=kept.protocol,
        )
    if not names & {"mu", "sigma"}:
        return Source(path, images=open_samples(path, reading))
    if not reference:
        if "arr_0" in names:
            return Source(path, images=open_samples(path, reading))
        raise _only_statistics(path)
    spatial = _read_moments(path, names, "mu_s", "sigma_s") if names & {"mu_s", "sigma_s"} else None
    return Source(
        path,
        images=open_samples(path, reading) if "arr_0" in names else None,
        moments=_read_moments(path, names, "mu", "sigma"),
        spatial=spatial,
        origin=None if spatial is None else "openai",  # other programs write no spatial statistics
    )


def open_sources(
    reference: str | Path, samples: Sequence[str | Path], reading: ReadOptions
) -> tuple[Source, list[Source], list[str]]:
    """Open a reference and sets to compare with it; see `open_source`.

    A key need not be in every file: sets of other formats have other names. A file without it is read by the usual names.

    Returns:
        The reference, the sets, and a warning for each file without the key.

    Raises:
        BadInputError: see `open_source`; or no file has the key.
    """
    opened: list[Source] = []
    missing: list[MissingKeyError] = []
    for i, path in enumerate([reference, *samples]):
        try:
            opened.append(open_source(path, reading, reference=i == 0))
        except MissingKeyError as e:
            missing.append(e)
            opened.append(open_source(path, replace(reading, images_key=None, labels_key=None), reference=i == 0))
    if missing and len(missing) == sum(source.images is not None for source in opened):
        raise missing[0]
    return opened[0], opened[1:], [f"{e}; it is read by the usual names" for e in missing]


def save_features(path: Path, kept: Features, moments: Moments | None = None, spatial: Moments | None = None) -> None:
    """Write features; `open_source` reads them back.

    Args:
        path: npz file to write.
        kept: the features.
        moments, spatial: statistics to compare with instead of the features' own, made by the same protocol; None if the
            reference has none.

    Raises:
        BadInputError: the place is not writable, or the disk is full.
    """
    arrays: dict[str, Any] = {"features": kept.features.numpy()}
    if kept.logits is not None:
        arrays["logits"] = kept.logits.numpy()
    if kept.spatial is not None:
        arrays |= {"mu_s": kept.spatial.mu.numpy(), "sigma_s": kept.spatial.sigma.numpy()}
    for of_file, mu, sigma in ((moments, _MU, _SIGMA), (spatial, _MU_S, _SIGMA_S)):
        if of_file is not None:
            arrays |= {mu: of_file.mu.numpy(), sigma: of_file.sigma.numpy()}
    about = {"extractor": kept.identity.to_dict(), "shape": kept.shape, "protocol": kept.protocol}
    try:
        with replacing(path) as aside, aside.open("wb") as f:
            np.savez(f, about=np.array(json.dumps(about)), **arrays)
    except OSError as e:
        raise cannot_write(path, e) from e


def _only_statistics(path: Path) -> BadInputError:
    return BadInputError(
        f"{path} holds statistics (mu, sigma) and no images; only a reference may, samples must be images"
    )


def _npz_members(path: Path) -> set[str]:
    """Names of the arrays in an npz; empty for anything else, which `open_samples` checks."""
    if path.suffix.lower() == ".zip" or not path.is_file():
        return set()
    try:
        with zipfile.ZipFile(path) as archive:
            check_names(path, archive.namelist())
            return {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    except (zipfile.BadZipFile, OSError):
        return set()


def _read(path: Path, *names: str) -> list[Array]:
    try:
        with np.load(path, allow_pickle=False) as data:
            return [data[name] for name in names]
    except Exception as e:  # zipfile, zlib and numpy have no common error for a damaged file
        raise BadInputError(f"{path} is damaged ({e}); make or copy it again") from e


def _read_moments(path: Path, names: set[str], mu_name: str, sigma_name: str) -> Moments:
    missing = [name for name in (mu_name, sigma_name) if name not in names]
    if missing:
        raise BadInputError(
            f"{path} has no {missing[0]} (it has {', '.join(sorted(names))}); a reference needs both {mu_name} and {sigma_name}"
        )
    return _check_moments(path, mu_name, sigma_name, *_read(path, mu_name, sigma_name))


def _check_moments(path: Path, mu_name: str, sigma_name: str, mu: Array, sigma: Array) -> Moments:
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)) or mu.dtype.kind != "f" or sigma.dtype.kind != "f":
        raise BadInputError(
            f"{path}: {mu_name} must be float [D] and {sigma_name} [D, D]; they are {list(mu.shape)} and {list(sigma.shape)}"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise BadInputError(f"{path}: {mu_name} or {sigma_name} has values that are not finite; compute it again")
    scale = float(np.abs(sigma).max())
    if np.abs(sigma - sigma.T).max() > 1e-3 * scale or sigma.diagonal().min() < -1e-6 * scale:
        raise BadInputError(f"{path}: {sigma_name} is not a covariance matrix (not symmetric, or a negative variance)")
    return Moments(torch.from_numpy(mu.astype(np.float64)), torch.from_numpy(sigma.astype(np.float64)))


def _read_features(path: Path) -> Features:
    names = _npz_members(path)
    try:
        if "about" not in names:
            raise ValueError("it does not say which extractor made them")
        (about_text,) = _read(path, "about")
        about = json.loads(str(about_text))
        stated = dict(about["extractor"])
        # Files of earlier versions do not say it.
        stated["input_max"] = float(stated.get("input_max", 255 if stated["kind"] == "inception" else 1))
        identity = Identity(**stated)
        h, w, c = about["shape"]
        protocol = about.get("protocol", UNNAMED)
        if protocol not in PROTOCOLS:
            raise ValueError(f"made with an unknown protocol, {protocol!r}")
        (features,) = _read(path, "features")
        logits = _read(path, "logits")[0] if "logits" in names else None
        for array in (features, *([] if logits is None else [logits])):
            if array.ndim != 2 or array.dtype != np.float32 or len(array) != len(features):
                raise ValueError(f"an array of shape {list(array.shape)} and dtype {array.dtype}")
            if not np.isfinite(array).all():
                raise ValueError("values that are not finite")
    except BadInputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as e:
        raise BadInputError(f"{path} does not hold features that --save-features wrote ({e}); write them again") from e
    spatial = _read_moments(path, names, "mu_s", "sigma_s") if "mu_s" in names else None
    count = len(features)
    if spatial is not None:
        spatial = Moments(spatial.mu, spatial.sigma, count)
    rows = None if logits is None else torch.from_numpy(logits)
    return Features(count, (h, w, c), identity, torch.from_numpy(features), rows, spatial, protocol)
