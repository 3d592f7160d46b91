"""How the time of an image-step depends on the batch and the image size, and how much early stopping saves.

    python benchmarks/scaling.py bundle --batches 1,8,32,64 --rounds 5

The first part times one gradient of every engine that serves the batch and the size, by turns, beside plain autograd. A
compiled package has one batch size and is listed only there.

The second part boosts a set in which half of the images have realness >= l0 before the first step, in random order. It
boosts with and without early stopping and prints the ratio of images a second.

* The eager engine takes any l0. For it, l0 is the median realness of the set.
* The other engines have the bundle's l0 built in. For them, the set is chosen from images and boosted images, half of
  them above l0 and half below. If too few images lie on one side, a line says so.

Images that reach l0 during the run stop as well. How many do depends on the model, so the steps used are printed too.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from loops import smooth_images  # beside this file

from jboost.bench.contestants import Entrant, Work, line_up
from jboost.bench.machine import describe_machine
from jboost.bench.timing import PAUSE, WARM_UP, alternate, spread
from jboost.booster import Booster
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.method.updates import PGD
from jboost.engine.samples import open_samples


@dataclass(frozen=True)
class Set:
    """Images uint8 [N, H, W, C] and classes int64 [N]; half of the images have reached `l0`."""

    images: np.ndarray
    labels: np.ndarray
    l0: float


def by_size(bundle: Bundle, objective: str, batches: list[int], engines: list[str], rounds: int) -> None:
    print(f"{'size':>5} {'batch':>6}  ms an image-step (ratio to plain autograd)")
    for size in bundle.config.resolutions:
        for batch in batches:
            work = Work(str(bundle.path), objective, bundle.config.l0, size, batch, "cpu")
            field, _ = line_up(bundle, work, engines=engines, dtypes=("fp32",), torch_compile=False)
            entrants: dict[str, Entrant] = {}
            for contestant in field:
                try:
                    entrants[contestant.label] = Entrant(contestant, work)
                except BadInputError as e:
                    print(f"{contestant.label} is left out: {e}")
            for entrant in entrants.values():
                for _ in range(WARM_UP):
                    entrant.step()
            seconds = alternate({name: e.step for name, e in entrants.items()}, rounds=rounds, pause=PAUSE)
            medians = {name: spread(taken).median / batch * 1e3 for name, taken in seconds.items()}
            base = next(iter(medians.values()))  # plain autograd is first
            cells = [f"{name} {ms:.3g} ({base / ms:.2f}x)" for name, ms in medians.items()]
            print(f"{size:>5} {batch:>6}  " + "   ".join(cells), flush=True)
            for entrant in entrants.values():
                entrant.close()


def realness_of(booster: Booster, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Realness float32 [N], from a run of zero steps."""
    none = PGD(steps=0, step_size=0.1)
    return booster.boost(images, labels, none, early_stop=False).records["realness_before"]


def half_arrived(path: Path, images: np.ndarray, labels: np.ndarray, count: int, fixed_l0: float | None) -> Set | str:
    """Choose `count` images, half of which have reached l0, in random order; or return why that is impossible.

    Args:
        path: the bundle's folder.
        images, labels: the images to choose from.
        count: number of images to choose.
        fixed_l0: l0; None for the median of the images' realness.
    """
    with Booster(path, engine="eager", device="cpu") as booster:
        if fixed_l0 is None:
            images, labels = images[:count], labels[:count]
            return Set(images, labels, float(np.median(realness_of(booster, images, labels))))
        # Boosting moves images to where the model puts real ones.
        boosted = booster.boost(images, labels, PGD(steps=35, step_size=0.1), l0=fixed_l0, early_stop=True)
        images = np.concatenate([images, boosted.images])
        labels = np.concatenate([labels, labels])
        arrived = realness_of(booster, images, labels) >= fixed_l0
    half = count // 2
    if arrived.sum() < half or (~arrived).sum() < half:
        return f"{arrived.sum()} of {len(images)} images have realness >= l0 {fixed_l0:g}, but {half} on each side are needed"
    chosen = np.concatenate([np.flatnonzero(arrived)[:half], np.flatnonzero(~arrived)[:half]])
    chosen = np.random.default_rng(0).permutation(chosen)
    return Set(images[chosen], labels[chosen], fixed_l0)


def stopping(path: Path, engine: str, objective: str, batch: int, data: Set, steps: int, rounds: int) -> None:
    update = PGD(steps=steps, step_size=0.1)
    with Booster(path, engine=engine, device="cpu", batch_size=batch) as booster:

        def run(stop: bool) -> float:
            done = booster.boost(data.images, data.labels, update, objective=objective, l0=data.l0, early_stop=stop)
            return done.summary.steps_used

        try:
            used = run(True)
        except BadInputError as e:
            print(f"{engine} is left out: {e}")
            return
        run(False)
        seconds = alternate({"on": lambda: run(True), "off": lambda: run(False)}, rounds=rounds, pause=PAUSE)
    rate = {name: len(data.images) / spread(taken).median for name, taken in seconds.items()}
    print(
        f"{engine:<8} l0 {data.l0:.3f}: {rate['on']:.3g} images/s with early stopping ({used:.1f} of {steps} steps used), "
        f"{rate['off']:.3g} without: {rate['on'] / rate['off']:.2f}x; the steps alone would give {steps / used:.2f}x",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--samples", type=Path, help="a sample set with labels; default: synthetic images")
    parser.add_argument("--objective", help="default: joint if the bundle has l0, else bce")
    parser.add_argument("--engines", default="eager,onnx,compile")
    parser.add_argument("--batches", default="1,8,32,64")
    parser.add_argument("--batch", type=int, default=32, help="batch size of the early-stopping runs")
    parser.add_argument("--images", type=int, default=256, help="number of images in the early-stopping runs")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    bundle, engines = Bundle(args.bundle), args.engines.split(",")
    config = bundle.config
    objective = args.objective or ("joint" if config.l0 is not None else "bce")
    m = describe_machine("cpu")
    print(f"{m.cpu}, {m.cores} cores, {m.threads} threads, {m.instruction_set}, torch {m.versions['torch']}")
    print(f"{config.architecture}, objective {objective}, medians of {args.rounds} alternating rounds")
    by_size(bundle, objective, [int(b) for b in args.batches.split(",")], engines, args.rounds)

    if args.samples is not None:
        samples = open_samples(args.samples)
        rows = np.arange(min(samples.shape[0], args.images))
        images, labels = samples.read(rows), samples.labels
        if labels is None:
            parser.error("--samples needs labels: the realness of an image depends on its class")
        labels = labels[rows]
    else:
        images = smooth_images(args.images, config.resolutions[0], config.in_channels)
        labels = np.arange(args.images, dtype=np.int64) % config.num_classes
    for engine in engines:
        fixed = None if engine == "eager" else config.l0
        if engine != "eager" and fixed is None:
            print(f"{engine} is left out: the bundle has no l0, so none is built into its graphs")
            continue
        data = half_arrived(args.bundle, images, labels, len(images), fixed)
        if isinstance(data, str):
            print(f"{engine} is left out: {data}")
        else:
            stopping(args.bundle, engine, objective, args.batch, data, args.steps, args.rounds)


if __name__ == "__main__":
    main()
