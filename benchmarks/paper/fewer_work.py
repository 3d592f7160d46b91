"""The work of `fewer.py`: follow paths, and measure the images along them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from data import CLASSES, save_samples
from fewer_plan import Method, Setting, steps_measured
from generators import VAE, sample_vae
from PIL import Image
from plan import SIDE
from safetensors.torch import load_model
from trajectories import Trajectory, follow
from work import enlarge

from jboost.engine.backends.onnx.cpu import OnnxRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.method.updates import PGD, SGLD, Update
from jboost.evaluation.extractors.open import open_extractor
from jboost.evaluation.metrics.bootstrap import interval, resample_weights
from jboost.evaluation.metrics.frechet import Frechet, frechet_distances
from jboost.evaluation.metrics.moments import moments
from jboost.evaluation.metrics.neighbours import overlap
from jboost.grid import draw_grid

#: Images whose first gradients set the length of the raw gradient's steps, as `--step-size auto` does.
PROBED = 128
#: Test images that precision, recall, density and coverage are computed against: all pairs of the 10,000 would take minutes.
NEIGHBOURS = 4000

Images = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]


def load(path: Path, count: int | None = None) -> Images:
    """The first images uint8 [N, H, W, C] and classes int64 [N] of a sample set."""
    with np.load(path, allow_pickle=False) as file:
        return file["arr_0"][:count], file["arr_1"][:count].astype(np.int64)


def tuning_samples(folder: Path, run: Path, seed: int, count: int) -> dict[str, Any]:
    """Samples to choose lengths on, of other noise than those that are reported."""
    drawn = run / f"seed{seed}" / "samples"
    for source in ("flow1", "flow2"):
        images, labels = load(drawn / f"tune{source[-1]}.npz")
        np.savez_compressed(folder / f"{source}.npz", arr_0=images, arr_1=labels)
    vae = VAE(SIDE).eval()
    load_model(vae, str(run / f"seed{seed}" / "vae" / "vae.safetensors"))
    save_samples(folder / "vae.npz", *sample_vae(vae, count, seed=1000 * seed + 31))
    enlarge(folder / "flow2.npz", folder / "large.npz")
    enlarge(run / "references" / "train.npz", folder / "train.large.npz")
    return {"count": count}


def features_of(images: np.ndarray[Any, Any], yardstick: Path) -> torch.Tensor:
    """Features float32 [N, D] of uint8 images."""
    extractor = _extractor(yardstick)
    parts = [extractor(images[i : i + 250]).features for i in range(0, len(images), 250)]
    return torch.from_numpy(np.concatenate(parts))


@lru_cache(maxsize=2)
def _extractor(path: Path) -> Any:
    return open_extractor(str(path), "cpu", trust_code=True)


def reference(folder: Path, images: Path, yardstick: Path) -> dict[str, Any]:
    """Features of a set of real images."""
    found = features_of(load(images)[0], yardstick)
    np.save(folder / "features.npy", found.numpy())
    return {"images": len(found)}


def paths(
    folder: Path, setting: Setting, method: Method, lengths: Mapping[float, int], samples: Path, count: int, resamples: int,
    bundle: Path, yardstick: Path, real: Path,
) -> dict[str, Any]:  # fmt: skip
    """Every length of a step, after every number of steps: FID, its interval and gradients; cosines by length.

    The features stay in ``features.npz``, by ``LENGTH.STEPS``.
    """
    images, labels = load(samples, count)
    opened = Bundle(bundle)
    threshold = float(opened.config.l0) if method.stops else math.inf
    network = OnnxRunner(opened, RunRequest(method.objective, opened.config.l0, images.shape[1], "cpu"))
    distance = Frechet(_moments(np.load(real / "features.npy")))
    weights = resample_weights(len(images), resamples, 0)

    def measured(levels: np.ndarray[Any, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        features = features_of(levels, yardstick)
        values = frechet_distances(features, distance, weights, on_step=lambda: None)
        bounds = interval(values, 0.0)
        return features, {
            "fid": float(values[0]), "fid_interval": None if bounds is None else [bounds.low, bounds.high],
        }  # fmt: skip

    start = follow(network, images[:PROBED], labels[:PROBED], PGD(steps=1))
    norm = float(start.norms.mean())
    kept, before = {}, measured(images)
    kept["0"], rows, turns = before[0], [{"length": 0.0, "steps": 0, "gradients": 0.0, **before[1]}], []
    for length, most in lengths.items():
        update = _update(method, most, length * setting.longer, norm)
        found = follow(network, images, labels, update, threshold=threshold)
        turns.append({"length": length, **straightness(found)})
        for steps in steps_measured(length, most):
            kept[f"{length:g}.{steps}"], facts = measured(found.levels[steps])
            rows.append({"length": length, "steps": steps, "gradients": float(found.gradients[steps].mean()), **facts})
    np.savez_compressed(folder / "features.npz", **{key: value.numpy() for key, value in kept.items()})
    return {"norm": norm, "l0": opened.config.l0, "rows": rows, "turns": turns}


def _update(method: Method, steps: int, length: float, norm: float) -> Update:
    return SGLD(steps=steps, step_size=length / norm, noise=0.0) if method.raw else PGD(steps=steps, step_size=length)


def straightness(found: Trajectory) -> dict[str, Any]:
    """Cosines of the gradients before and after a step: of the first step, and of all.

    Returns:
        ``first``: quartiles over images; ``above``: by bound, the share of images whose first cosine exceeds it; ``later``:
        the median over images, step by step.
    """
    first = found.cosines[0][np.isfinite(found.cosines[0])]
    if len(first) == 0:
        return {"first": None, "above": {}, "later": []}
    later = [float(np.nanmedian(row)) for row in found.cosines if np.isfinite(row).sum() >= len(row) / 4]
    return {
        "first": [float(q) for q in np.quantile(first, (0.25, 0.5, 0.75))], "mean": float(first.mean()),
        "above": {f"{bound:g}": float((first > bound).mean()) for bound in (0.5, 0.7, 0.8, 0.9)}, "later": later,
    }  # fmt: skip


def neighbours(
    folder: Path, measured: Path, keys: Callable[[], list[str]], real: Path, resamples: int
) -> dict[str, Any]:
    """Precision, recall, density and coverage, with their intervals, of some of the sets that `paths` measured.

    Args:
        folder: of the step.
        measured: the folder of `paths`.
        keys: gives those of ``features.npz``; asked when the step runs, since earlier steps choose them.
        real: the folder of `reference`.
        resamples: of the bootstrap.
    """
    test = torch.from_numpy(np.load(real / "features.npy")[:NEIGHBOURS])
    found: dict[str, Any] = {}
    with np.load(measured / "features.npz", allow_pickle=False) as file:
        for key in keys():
            if key not in file:
                continue
            of_set = torch.from_numpy(file[key])
            values = overlap(of_set, test, resample_weights(len(of_set), resamples, 0), on_step=lambda: None)
            found[key] = {}
            for name in ("precision", "recall", "density", "coverage"):
                drawn = getattr(values, name)
                bounds = interval(drawn, 0.0)
                found[key] |= {name: float(drawn[0])}
                if bounds is not None:
                    found[key] |= {f"{name}_interval": [bounds.low, bounds.high]}
    return {"neighbours": found}


def picture(folder: Path, rows: Callable[[], list[tuple[str, Path, Path, int, float]]]) -> None:
    """The first image of each class, generated and after some numbers of steps, with early stopping.

    Args:
        folder: of the step.
        rows: gives a title, a sample set, a bundle, steps (0: as generated) and a length; asked when the step runs.
    """
    drawn = []
    for title, samples, bundle, steps, length in rows():
        images, labels = load(samples)
        first = np.unique(labels, return_index=True)[1]
        opened = Bundle(bundle)
        network = OnnxRunner(opened, RunRequest("joint", opened.config.l0, images.shape[1], "cpu"))
        update = PGD(steps=steps, step_size=length or 1.0)
        found = follow(network, images[first], labels[first], update, threshold=float(opened.config.l0))
        drawn.append((title, found.levels[steps]))
    picture = draw_grid(drawn, CLASSES, cell=56).convert("P", palette=Image.Palette.ADAPTIVE)
    picture.save(folder / "picture.png", optimize=True)


def _moments(features: np.ndarray[Any, Any]) -> Any:
    rows = torch.from_numpy(features)
    return moments(rows, rows[:1024].double().mean(0))
