"""A place to tune in: samples, references, a tiny extractor, and `jboost tune` in this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jboost.booster import Booster
from jboost.cli import main
from jboost.engine.method.updates import Update
from jboost.evaluation import evaluate

EXTRACTOR = """
import torch

torch.manual_seed(0)
weights = torch.randn(8, 12)

def make():
    return lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1) @ weights.T
"""
FEATURES = ("--features", "tiny_extractor:make", "--device", "cpu")
RULER = {"features": "tiny_extractor:make", "device": "cpu", "metrics": ("fid",), "resamples": 0}
CLASSES = 5


def pictures(count: int, seed: int, size: int = 16) -> np.ndarray:
    """uint8 [count, size, size, 3], smooth."""
    coarse = torch.from_numpy(np.random.default_rng(seed).random((count, 3, 4, 4)))
    fine = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (fine.numpy() * 255).astype(np.uint8).transpose(0, 2, 3, 1).copy()


def fid_of(reference: Path, images: np.ndarray, aside: Path) -> float:
    """The FID that `jboost eval` gives images."""
    np.savez(aside, images)
    value = evaluate(reference, [aside], **RULER).samples[0].metrics["fid"].value
    assert value is not None
    return value


@dataclass
class Place:
    """A folder with samples.npz (40 images), ref.npz (60 others) and the extractor."""

    root: Path
    bundle: Path

    @classmethod
    def make(cls, root: Path, bundle: Path) -> Place:
        (root / "tiny_extractor.py").write_text(EXTRACTOR)
        images, labels = pictures(40, 1), np.arange(40) * 7 % CLASSES
        np.savez(root / "samples.npz", images, labels)
        np.savez(root / "ref.npz", pictures(60, 2), np.arange(60) % CLASSES)
        return cls(root, bundle)

    def planted(self, update: Update, objective: str) -> Path:
        """A reference that the samples reach with one setting, but for a grey level here and there."""
        with np.load(self.root / "samples.npz") as data, Booster(self.bundle, engine="eager", device="cpu") as booster:
            boosted = booster.boost(data["arr_0"], data["arr_1"], update, objective=objective).images
        off = np.random.default_rng(3).integers(-1, 2, boosted.shape)
        path = self.root / "planted.npz"
        np.savez(path, (boosted.astype(int) + off).clip(0, 255).astype(np.uint8))
        return path

    def arguments(self, *options: object, ref: str = "ref.npz", out: str = "out") -> list[str]:
        how = ("--ref", ref, "--bundle", self.bundle, "--engine", "eager", *FEATURES, "-o", out, *options)
        return ["tune", "samples.npz", *map(str, how)]

    def tune(self, *options: object, ref: str = "ref.npz", out: str = "out") -> dict[str, Any]:
        """Tune in this process; the result as tune.json has it."""
        code = main._run(self.arguments(*options, ref=ref, out=out))
        assert code == 0
        return json.loads((self.root / out / "tune.json").read_text())


def key_of(setting: dict[str, Any]) -> tuple[Any, ...]:
    """A setting without its figures."""
    return tuple(setting[name] for name in ("update", "objective", "step_size", "noise", "steps"))
