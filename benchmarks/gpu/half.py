"""Packages in float16 against eager float32 on a robust model, on a GPU: the gradients' directions, and how real the digits become.

    python benchmarks/gpu/half.py --demo out/demo

The model and the samples are the demo's (`make demo`), which is run first if it has not been. The exit code is 1 if the median
cosine of the gradients is below 0.99, or if a Fréchet distance after boosting differs by more than 2%.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from jboost.engine.backends.registry import ENGINES
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.method.compare import cosine

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from command import jboost
from data import enlarge, load_digits, load_samples
from features import features, frechet_distance, train_classifier
from run import PGD_FLAGS, SGLD_FLAGS, SPLIT_SEED

DEMO = Path(__file__).resolve().parents[1] / "demo"
BATCH = 256
UPDATES = {"pgd": PGD_FLAGS, "sgld": SGLD_FLAGS}
ENGINE = {"fp32": "eager", "fp16": "compile"}
LEAST_COSINE, MOST_DIFFERENCE = 0.99, 0.02


def gradients(bundle: Path, dtype: str, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The joint objective's gradients at the samples: float32 [BATCH, C, H, W]."""
    opened = Bundle(bundle)
    request = RunRequest("joint", opened.config.l0, opened.config.resolutions[0], "cuda", dtype)
    with ENGINES[ENGINE[dtype]].open(opened, request) as runner:
        return runner.gradient(images[:BATCH].cuda(), labels[:BATCH].cuda()).grad.cpu()


def boost(demo: Path, bundle: Path, update: str, dtype: str) -> Path:
    """Boost the demo's samples as the demo does; the file of images."""
    target = demo / f"samples.{update}.{dtype}.npz"
    shutil.rmtree(f"{target}.partial", ignore_errors=True)
    jboost(
        "boost", str(demo / "samples.npz"), "--bundle", str(bundle), "-o", str(target), "--engine", ENGINE[dtype], "--device",
        "cuda", "--dtype", dtype, "--seed", "0", *UPDATES[update],
    )  # fmt: skip
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("out/demo"), help="the demo's folder")
    args = parser.parse_args()
    demo: Path = args.demo
    checkpoint = demo / "joint" / "last.safetensors"
    if not (demo / "results.json").exists():
        subprocess.run([sys.executable, DEMO / "run.py", "--out", demo], check=True)
    bundle = demo / "gpu"
    jboost(
        "export", "--ckpt", str(checkpoint), "-o", str(bundle), "--format", "compile", "--dtype", "fp16", "--objective",
        "joint,logit", "-b", str(BATCH), "--device", "cuda",
    )  # fmt: skip
    images, labels = load_samples(demo / "samples.npz")
    single, half = (gradients(bundle, dtype, images, labels) for dtype in ("fp32", "fp16"))
    directions = cosine(half, single)
    small = load_digits(SPLIT_SEED)
    yardstick = train_classifier((enlarge(small.train[0]), small.train[1]), epochs=20, seed=0)
    reference = features(yardstick, enlarge(small.held_out[0]))
    figures: dict[str, float] = {"cosine_median": float(directions.median()), "cosine_worst": float(directions.min())}
    ok = figures["cosine_median"] >= LEAST_COSINE
    for update in UPDATES:
        files = [boost(demo, bundle, update, dtype) for dtype in ("fp32", "fp16")]
        distances = [frechet_distance(features(yardstick, load_samples(file)[0]), reference) for file in files]
        with np.load(files[0]) as a, np.load(files[1]) as b:
            same = float(np.mean(a["arr_0"] == b["arr_0"]))
        figures |= {f"{update}_fp32": distances[0], f"{update}_fp16": distances[1], f"{update}_same_values": same}
        ok = ok and abs(distances[1] / distances[0] - 1) <= MOST_DIFFERENCE
    print(json.dumps(figures, indent=2))
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
