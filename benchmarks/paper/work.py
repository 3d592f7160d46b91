"""The work behind each step: data and generators in this process, the joint models and the numbers through the command line."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tuning
from codes import Codes
from command import jboost
from data import Labelled, load_samples, save_samples
from features import Classifier, accuracy, train_classifier
from generator import Velocity
from generators import CODE, VAE, sample_flow, sample_vae, train_flow, train_vae
from grid import save_grid
from plan import LARGE_SIDE, SIDE, Plan
from safetensors.torch import load_model, save_model
from torch import nn
from variants import Model, Variant, graphs_of

from jboost.trainer.data import open_real, to_tensor

METRICS = "fid,precision,recall"


def open_split(folder: Path, split: str, count: int, side: int = SIDE, start: int = 0) -> Labelled:
    """Images float32 [N, 1, side, side] in [0, 1] and labels of Fashion-MNIST's ``train`` or ``t10k`` split."""
    data = open_real(next(folder.glob(f"{split}-images-idx3-ubyte*")), resolution=side, channels=1)
    indices = np.arange(start, start + count)
    return to_tensor(data.read(indices)), torch.from_numpy(data.labels[indices])


@lru_cache(maxsize=1)
def _training(folder: Path, count: int) -> tuple[Labelled, Codes]:
    images = open_split(folder, "train", count)
    return images, Codes(images[0], CODE)


def references(folder: Path, data: Path, plan: Plan) -> dict[str, Any]:
    """The test images at both sizes, and as many training images, to choose steps by."""
    for side in (SIDE, LARGE_SIDE):
        save_samples(folder / f"test.{side}.npz", *open_split(data, "t10k", plan.test_images, side))
    count = min(plan.test_images, plan.training_images)
    save_samples(folder / "train.npz", *open_split(data, "train", count))
    return {"test_images": plan.test_images, "training_images": count}


class _Named(nn.Module):
    """A classifier, with its outputs named as `jboost eval` reads them."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.classifier.features(x)
        return {"features": features, "logits": self.classifier.head(features)}


def yardstick(folder: Path, data: Path, plan: Plan, side: int) -> dict[str, Any]:
    """A plain classifier, as a program that `jboost eval` takes features from."""
    train = open_split(data, "train", plan.training_images, side)
    classifier = train_classifier(train, epochs=plan.yardstick_epochs, seed=0, batch_size=128)
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.export.export(_Named(classifier).eval(), (train[0][:2],), dynamic_shapes=({0: batch},))
    # Stored inputs would have to be unpickled when the file is read.
    program.example_inputs = None
    torch.export.save(program, folder / "yardstick.pt2")
    return {"accuracy": accuracy(classifier, open_split(data, "t10k", plan.test_images, side))}


def flow(folder: Path, data: Path, plan: Plan, seed: int) -> dict[str, Any]:
    """The few-step generator."""
    train, codes = _training(data, plan.training_images)
    model = train_flow(
        train, codes, iterations=plan.flow_iterations, pairs=plan.reflow_pairs, reflow=plan.reflow_iterations, seed=seed
    )
    save_model(model, str(folder / "flow.safetensors"))
    return {"components": CODE * CODE}


def vae(folder: Path, data: Path, plan: Plan, seed: int) -> dict[str, Any]:
    """The generator of another kind."""
    train, _ = _training(data, plan.training_images)
    model = train_vae(train, iterations=plan.vae_iterations, seed=seed)
    save_model(model, str(folder / "vae.safetensors"))
    return {"latent": model.latent}


def samples(folder: Path, data: Path, plan: Plan, seed: int, flow: Path, vae: Path) -> dict[str, Any]:
    """What is trained on (``train*``), tuned on (``tune*``) and boosted: each from noise of its own."""
    _, codes = _training(data, plan.training_images)
    straight, other = Velocity(CODE).eval(), VAE(SIDE).eval()
    load_model(straight, str(flow / "flow.safetensors"))
    load_model(other, str(vae / "vae.safetensors"))
    counts = {"train": plan.training_samples, "tune": plan.tuning_samples, "flow": plan.samples}
    for steps in (1, 2):
        for i, (kind, count) in enumerate(counts.items()):
            drawn = sample_flow(straight, codes, count, steps=steps, seed=1000 * seed + 10 * i + steps)
            save_samples(folder / f"{kind}{steps}.npz", *drawn)
    save_samples(folder / "vae.npz", *sample_vae(other, plan.samples, seed=1000 * seed + 30))
    enlarge(folder / "train2.npz", folder / "train-large.npz")
    enlarge(folder / "flow2.npz", folder / "large.npz")
    return counts


def enlarge(source: Path, target: Path) -> None:
    """A sample set at LARGE_SIDE pixels, resized as the trainer resizes real images."""
    data = open_real(source, resolution=LARGE_SIDE, channels=1)
    save_samples(target, to_tensor(data.read(np.arange(len(data.labels)))), torch.from_numpy(data.labels))


def model(folder: Path, data: Path, plan: Plan, seed: int, chosen: Model, samples: Path) -> dict[str, Any]:
    """`jboost train`, on from where an earlier attempt was, and `jboost export`."""
    run, bundle = folder / "run", folder / "bundle"
    generated = [part for name in chosen.samples for part in ("--generated", str(samples / f"{name}.npz"))]
    again = ["--resume"] if (run / "state.safetensors").exists() else []
    if not again:
        shutil.rmtree(run, ignore_errors=True)
    jboost(
        "train", "--real", str(data), *generated, "-o", str(run), "--seed", str(seed),
        *chosen.train_flags(plan), *again,
    )  # fmt: skip
    shutil.rmtree(bundle, ignore_errors=True)
    objectives, sizes = graphs_of(chosen.name)
    jboost(
        "export", "--ckpt", str(run / "last.safetensors"), "-o", str(bundle), "--format", "onnx",
        "--objective", ",".join(objectives), "--resolution", ",".join(map(str, sizes)),
    )  # fmt: skip
    return json.loads((run / "log.jsonl").read_text().splitlines()[-1])


def tune(
    folder: Path, plan: Plan, variant: Variant, samples: Path, bundle: Path, reference: Path, measure: Path
) -> dict[str, Any]:
    """The setting with the lowest Fréchet distance to training images, as `tuning.search` chooses it."""
    assert variant.grid is not None

    def measure_paths(paths: Sequence[tuning.Path]) -> dict[tuning.Setting, float]:
        sets: dict[tuning.Setting, Path] = {}
        for i, path in enumerate(paths):
            output, last = folder / f"{i}.npz", path.settings()[-1]
            kept = ",".join(str(steps) for steps in path.steps[:-1])
            _boost(samples, bundle, output, *variant.flags, *last.flags(), *(("--snapshots", kept) if kept else ()))
            sets |= {at: output.with_name(f"{i}.step{at.steps}.npz") for at in path.settings()[:-1]} | {last: output}
        measured = evaluate(folder / "eval.json", reference, list(sets.values()), measure, "fid", 0)
        for output in sets.values():
            output.unlink()
        return {at: values["fid"]["value"] for at, values in zip(sets, measured, strict=True)}

    return tuning.search(variant.grid, measure_paths).to_dict()


def boost(folder: Path, variant: Variant, chosen: list[str], samples: Path, bundle: Path) -> dict[str, Any]:
    """`jboost boost`; its summary."""
    flags = list(chosen)
    if variant.longer != 1.0:
        at = flags.index("--step-size") + 1
        flags[at] = f"{float(flags[at]) * variant.longer:.4g}"
    return _boost(samples, bundle, folder / "boosted.npz", *variant.flags, *flags)


def _boost(samples: Path, bundle: Path, output: Path, *flags: str) -> dict[str, Any]:
    summary = output.with_suffix(".json")
    # On one core the faster of the two for networks as small as these; it has no bf16.
    engine = "eager" if "bf16" in flags else "onnx"
    jboost(
        "boost", str(samples), "--bundle", str(bundle), "-o", str(output), "--engine", engine,
        "--json", str(summary), *flags,
    )  # fmt: skip
    return json.loads(summary.read_text())


def evaluate(
    json_file: Path, reference: Path, sets: list[Path], measure: Path, metrics: str, resamples: int
) -> list[dict[str, Any]]:
    """`jboost eval`: by set, its metrics."""
    jboost(
        "eval", str(reference), *map(str, sets), "--features", str(measure), "--trust-code", "--metrics", metrics,
        "--bootstrap", str(resamples), "-b", "256", "--json", str(json_file),
    )  # fmt: skip
    return [sample["metrics"] for sample in json.loads(json_file.read_text())["samples"]]


def pixels(first: Path, second: Path) -> dict[str, Any]:
    """How far two sample sets are apart, in grey levels of 255."""
    a, b = (np.load(path, allow_pickle=False)["arr_0"].astype(np.int16) for path in (first, second))
    apart = np.abs(a - b)
    return {
        "largest": int(apart.max()), "median": float(np.median(apart)),
        "median_of_largest": float(np.median(apart.reshape(len(apart), -1).max(1))),
        "share_of_pixels": float((apart > 0).mean()),
    }  # fmt: skip


def picture(folder: Path, rows: list[tuple[str, Path]]) -> None:
    """One image of each class, before and after."""
    save_grid(folder / "picture.png", [(name, load_samples(path)) for name, path in rows], cell=56)


def machine() -> dict[str, Any]:
    """What the numbers of this run were made on."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*:\s*(.+)", info)
    return {
        "cpu": name[1] if name else platform.processor(), "cores": os.cpu_count(), "system": platform.system(),
        "python": platform.python_version(), "torch": torch.__version__, "jboost": version("jboost"),
        "bf16": bool(re.search(r"\b(avx512_bf16|amx_bf16)\b", info)),
    }  # fmt: skip
