"""The same loop in three ways: as research code writes it, by torchattacks, and by jboost's engines.

    python benchmarks/loops.py bundle --rounds 5

Each loop takes 15 L2-normalised steps of 0.1 towards each image's class, without a radius or early stopping, from uint8
images to uint8 images. The loops run by turns in one process, and the script prints milliseconds an image-step. jboost
also scores the images, which the other two do not; its time includes that.

torchattacks (MIT) has only the cross-entropy loss. Its PGDL2 runs targeted, which is descent, with a radius that never
binds. Its package requires torchvision but never imports it, so install it without dependencies:

    pip install --no-deps torchattacks && pip install scipy

If torchattacks is not installed, the script says so and leaves it out. Images are synthetic; the time does not depend
on them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from jboost.bench.machine import describe_machine
from jboost.bench.timing import PAUSE, alternate, spread
from jboost.booster import Booster
from jboost.engine.backends.program import load_program
from jboost.engine.backends.registry import ENGINES
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.engine.method.objectives import OBJECTIVES
from jboost.engine.method.updates import PGD

STEPS, STEP_SIZE = 15, 0.1
Loop = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Evaluating(nn.Module):
    """The forward program as a module with eval(), which the modules of torch.export refuse (torch 2.13)."""

    def __init__(self, program: nn.Module):
        super().__init__()
        self.program = program

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.program(x)

    def train(self, mode: bool = True) -> Self:
        self.training = mode
        return self


def smooth_images(count: int, size: int, channels: int) -> np.ndarray:
    """Smooth images uint8 [count, size, size, channels], which look more like pictures than noise does."""
    coarse = torch.rand(count, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    fine = functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return (fine.numpy() * 255).astype(np.uint8).transpose(0, 2, 3, 1).copy()


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 [N, H, W, C] -> float32 [N, C, H, W] in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255


def to_images(x: torch.Tensor) -> np.ndarray:
    """float32 [N, C, H, W] in [0, 1] -> uint8 [N, H, W, C], rounded to nearest."""
    return (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def plain_loop(model: nn.Module, objective: str, l0: float | None) -> Loop:
    """Algorithm 1 as a few lines of PyTorch."""

    def run(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        x, y = to_tensor(images), torch.from_numpy(labels)
        for _ in range(STEPS):
            x.requires_grad_()
            loss = OBJECTIVES[objective](model(x), y, l0 or 0.0).sum()
            (g,) = torch.autograd.grad(loss, x)
            g = g / (g.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-12)
            x = (x.detach() - STEP_SIZE * g).clamp(0, 1)
        return to_images(x)

    return run


def torchattacks_loop(model: nn.Module) -> Loop | str:
    """torchattacks' PGDL2, or the reason why it cannot run here."""
    try:
        from torchattacks import PGDL2
    except ImportError as e:
        return f"{e}; see the top of this file for how to install it"
    # No image can reach this radius: the diagonal of [0, 1]^(3 x 1024 x 1024) is sqrt(3 x 1024^2).
    attack = PGDL2(model, eps=1e4, alpha=STEP_SIZE, steps=STEPS, random_start=False)
    attack.set_mode_targeted_by_label(quiet=True)

    def run(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
        return to_images(attack(to_tensor(images), torch.from_numpy(labels)))

    return run


def engine_loop(booster: Booster, objective: str) -> Loop:
    update = PGD(steps=STEPS, step_size=STEP_SIZE)
    return lambda images, labels: booster.boost(images, labels, update, objective=objective, early_stop=False).images


def in_batches(loop: Loop, batch: int) -> Loop:
    """Run a loop over a whole set in batches, as jboost does itself."""
    return lambda images, labels: np.concatenate(
        [loop(images[i : i + batch], labels[i : i + batch]) for i in range(0, len(images), batch)]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--objective", help="default: joint if the bundle has l0, else bce")
    parser.add_argument("--engines", default=",".join(ENGINES))
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    config = Bundle(args.bundle).config
    objective = args.objective or ("joint" if config.l0 is not None else "bce")
    images = smooth_images(args.images, config.resolutions[0], config.in_channels)
    labels = np.arange(args.images, dtype=np.int64) % config.num_classes

    model = Evaluating(load_program(Bundle(args.bundle).checked_path("forward"), "cpu"))
    loops: dict[str, Loop] = {"plain PyTorch": in_batches(plain_loop(model, objective, config.l0), args.batch)}
    attack = torchattacks_loop(model)
    if isinstance(attack, str):
        print(f"torchattacks is left out: {attack}")
    else:
        loops["torchattacks PGDL2 (ce)"] = in_batches(attack, args.batch)
    results: dict[str, np.ndarray] = {}
    for name in args.engines.split(","):
        try:
            booster = Booster(args.bundle, engine=name, device="cpu", batch_size=args.batch)
            loop = engine_loop(booster, objective)
            results[name] = loop(images, labels)  # also opens the engine
        except BadInputError as e:
            print(f"{name} is left out: {e}")
        else:
            loops[f"jboost {name}"] = loop
    report(args, loops, images, labels, results)


def report(args: Any, loops: dict[str, Loop], images: np.ndarray, labels: np.ndarray, results: Any) -> None:
    plain = loops["plain PyTorch"](images, labels).astype(int)
    for name, got in results.items():
        same = (plain == got).mean()
        print(
            f"jboost {name}: {same:.2%} of the values equal the plain loop's, the largest difference is "
            f"{np.abs(plain - got).max()}"
        )
    if "torchattacks PGDL2 (ce)" in loops:
        loops["torchattacks PGDL2 (ce)"](images, labels)  # warm-up
    seconds = alternate(
        {name: lambda loop=loop: loop(images, labels) for name, loop in loops.items()}, rounds=args.rounds, pause=PAUSE
    )
    m = describe_machine("cpu")
    print(f"{m.cpu}, {m.cores} cores, {m.threads} threads, {m.instruction_set}, torch {m.versions['torch']}")
    print(
        f"{args.images} images of {images.shape[1]}x{images.shape[2]}, batch {args.batch}, {STEPS} steps, "
        f"medians of {args.rounds} alternating rounds"
    )
    scale = 1e3 / (len(images) * STEPS)
    base = spread(seconds["plain PyTorch"]).median
    for name, taken in seconds.items():
        s = spread(taken)
        print(
            f"{name:<24} {s.median * scale:8.3g} ms an image-step ({s.q1 * scale:.3g} to {s.q3 * scale:.3g})   "
            f"{base / s.median:5.2f}x plain PyTorch"
        )


if __name__ == "__main__":
    main()
