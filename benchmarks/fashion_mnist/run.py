"""The main job on Fashion-MNIST, from scratch: generator, `jboost train`, `export`, `boost`, and the Fréchet distance.

    python benchmarks/fashion_mnist/run.py --data /usr/share/datasets/fashion-mnist --out out/fashion

`--data` is the folder of the four IDX files (Debian: apt-get install dataset-fashion-mnist). The generator takes few
steps. Nothing is trained on the test split. The boosted samples have another seed than those that the joint model was
trained on. The exit code is 1 if boosting does not halve the Fréchet distance to the test images, or if robust
accuracy at radius 1 stays below 70%.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch; see the demo

import numpy as np
import torch

from jboost.trainer.data import open_real, to_tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from codes import Codes
from command import jboost
from data import Labelled, load_samples, save_samples
from features import Classifier, accuracy, features, frechet_distance, train_classifier
from generator import Velocity, sample, train_generator
from grid import save_grid

EULER_STEPS, CODE = 2, 10
TRAINING_SAMPLES, REPORTED_SAMPLES = 10_000, 5_000
BOOST = ["--steps", "15", "--step-size", "0.2"]
REQUIRED_FALL, REQUIRED_ACCURACY = 0.5, 0.7


def say(start: float, what: str) -> float:
    print(f"{time.perf_counter() - start:7.1f} s  {what}", flush=True)
    return time.perf_counter()


def load(folder: Path, split: str, count: int | None = None) -> Labelled:
    """Images float32 [N, 1, 28, 28] in [0, 1] and labels int64 [N]."""
    name = "train" if split == "train" else "t10k"
    data = open_real(next(folder.glob(f"{name}-images-idx3-ubyte*")), resolution=None, channels=1)
    indices = np.arange(data.shape[0] if count is None else count)
    return to_tensor(data.read(indices)), torch.from_numpy(data.labels[indices])


def generate(generator: Velocity, codes: Codes, count: int, seed: int) -> Labelled:
    labels = torch.arange(count) % 10
    return codes.decode(sample(generator, (1, CODE, CODE), labels, steps=EULER_STEPS, seed=seed)), labels


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path("out/fashion"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generator-iterations", type=int, default=4000)
    parser.add_argument(
        "--train", nargs=argparse.REMAINDER, default=[], help="more flags for `jboost train`; comes last"
    )
    args = parser.parse_args()
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    begin = start = time.perf_counter()

    train, test = load(args.data, "train"), load(args.data, "test")
    start = say(start, f"{len(train[1]):,} images to train on, {len(test[1]):,} held out")
    yardstick: Classifier = train_classifier(train, epochs=2, seed=args.seed, batch_size=128)
    start = say(start, f"yardstick, a plain classifier: accuracy {accuracy(yardstick, test):.1%} on the test images")
    codes = Codes(train[0], CODE)
    generator = train_generator(
        (codes.encode(train[0]), train[1]), iterations=args.generator_iterations, seed=args.seed
    )
    start = say(start, f"generator, a rectified flow of {CODE * CODE} principal components")
    save_samples(out / "generated.npz", *generate(generator, codes, TRAINING_SAMPLES, seed=1000 * args.seed + 1))
    save_samples(out / "samples.npz", *generate(generator, codes, REPORTED_SAMPLES, seed=1000 * args.seed + 2))
    start = say(start, f"samples of {EULER_STEPS} Euler steps")

    run = out / "joint"
    shutil.rmtree(run, ignore_errors=True)
    jboost(
        "train", "--preset", "fashion-mnist", "--real", str(args.data), "--generated", str(out / "generated.npz"),
        "-o", str(run), "--seed", str(args.seed), *args.train,
    )  # fmt: skip
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    start = say(
        start,
        f"jboost train: {last['iteration']} iterations, robust accuracy {last['robust_accuracy']:.1%} at radius 1",
    )
    jboost("export", "--ckpt", str(run / "last.safetensors"), "-o", str(out / "bundle"))
    start = say(start, "jboost export")
    boosted = out / "samples.boosted.npz"
    shutil.rmtree(f"{boosted}.partial", ignore_errors=True)
    jboost("boost", str(out / "samples.npz"), "--bundle", str(out / "bundle"), "-o", str(boosted), *BOOST)
    start = say(start, "jboost boost " + " ".join(BOOST))

    sets = {"samples": load_samples(out / "samples.npz"), "boosted": load_samples(boosted)}
    reference = features(yardstick, test[0])
    distances = {name: frechet_distance(features(yardstick, images[0]), reference) for name, images in sets.items()}
    rows = [*sets.items(), ("test images", test)]
    save_grid(out / "before_after.png", rows)
    results = {
        "seed": args.seed, "seconds": time.perf_counter() - begin, "frechet": distances, "train": last,
        "accuracy": {name: accuracy(yardstick, images) for name, images in sets.items()},
    }  # fmt: skip
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    fall = 1 - distances["boosted"] / distances["samples"]
    before, after = distances.values()
    print(f"Fréchet distance {before:.2f} -> {after:.2f} ({-fall:+.0%}); {results['seconds']:.0f} s in all")
    return 0 if fall >= REQUIRED_FALL and last["robust_accuracy"] >= REQUIRED_ACCURACY else 1


if __name__ == "__main__":
    sys.exit(main())
