"""A problem small enough to train on in a test, and runs of it, also on several processes."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from children import Child, together

from jboost.trainer.config import TrainConfig
from jboost.trainer.data import ImageData, MixedData
from jboost.trainer.data.arrays import ArrayData
from jboost.trainer.prepare import TrainingData
from jboost.trainer.run import Finished, train
from jboost.trainer.start import described, initial_model
from jboost.trainer.watch import Hooks

SIZE, CLASSES = 8, 4


def real_images(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """A bright quarter that names the class: uint8 [N, 8, 8, 1], int64 [N]."""
    labels = np.arange(count) % CLASSES
    images = np.zeros((count, SIZE, SIZE, 1), np.uint8)
    for i, c in enumerate(labels):
        images[i, 4 * (c // 2) :, 4 * (c % 2) :][:4, :4] = 255
    return images, labels


def generated_images(count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """The same, half as bright, in noise."""
    images, labels = real_images(count)
    noise = np.random.default_rng(0).integers(0, 80, images.shape)
    return (images // 2 + noise).clip(0, 255).astype(np.uint8), labels


def problem(held_out: int = 8) -> TrainingData:
    def data(images: np.ndarray, labels: np.ndarray) -> ArrayData:
        return ArrayData(Path("memory"), [images], labels)

    ours, theirs = real_images(), generated_images()
    kept = tuple(data(x[-held_out:], y[-held_out:]) for x, y in (ours, theirs)) if held_out else None
    return TrainingData(
        data(ours[0][:32], ours[1][:32]), MixedData([data(theirs[0][:32], theirs[1][:32])], [1.0]), kept
    )


def two_sizes() -> TrainingData:
    """The problem with generated images of 4x4 beside real ones of 8x8."""
    whole = problem()

    def small(data: ImageData) -> MixedData:
        images = data.read(np.arange(data.shape[0]))
        return MixedData([ArrayData(Path("memory"), [images[:, ::2, ::2].copy()], data.labels)], [1.0])

    assert whole.held_out is not None
    return TrainingData(whole.real, small(whole.generated), (whole.held_out[0], small(whole.held_out[1])))


def configuration(**values: Any) -> TrainConfig:
    small = {
        "real": "memory",
        "generated": ("memory",),
        "arch": "small_resnet2",
        "iterations": 6,
        "batch_size": 8,
        "optimizer": "sgd",
        "learning_rate": 0.05,
        "real_steps": 2,
        "real_step_size": 0.1,
        "real_eps": 0.2,
        "generated_steps": 2,
        "grow_every": 2,
        "boost_steps": 2,
        "log_every": 1,
        "validate_every": 3,
        "save_every": 1,
        "log_with": "none",
        "device": "cpu",
    }
    return TrainConfig(**{**small, **values})


def run(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    hooks: Hooks | None = None,
    data: TrainingData | None = None,
) -> Finished | None:
    """Train on the problem."""
    torch.set_num_threads(1)
    model, info = initial_model(
        arch=config.arch, num_classes=CLASSES, in_channels=1, normalize="0.5/0.5", seed=config.seed
    )
    info = described(info, class_names=None, resolution=SIZE)
    return train(config, model, info, data or problem(), out, resume=resume, hooks=hooks)


def start_run(
    config: TrainConfig,
    out: Path,
    data: Callable[[], TrainingData] = problem,
    *,
    resume: bool = False,
    launched: Mapping[str, object] | None = None,
) -> Child:
    """A process that trains on the problem, or on what `data`, a function of a module, makes.

    Args:
        config, out, data, resume: as for `run`.
        launched: the environment variables of a launcher.
    """
    return Child(_run_as, config, out, data, resume, {name: str(value) for name, value in (launched or {}).items()})


def _run_as(
    config: TrainConfig, out: Path, data: Callable[[], TrainingData], resume: bool, launched: dict[str, str]
) -> None:
    os.environ |= launched
    run(config, out, resume=resume, data=data())


def run_on_processes(config: TrainConfig, out: Path, world: int, data: Callable[[], TrainingData] = problem) -> None:
    """Train with `world` processes, as a launcher starts them."""
    same = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    together(
        *(start_run(config, out, data, launched=same | {"RANK": rank, "LOCAL_RANK": rank}) for rank in range(world))
    )


def free_port() -> int:
    """A port that no other process takes between this call and its use.

    The system gives ports of a range of its own to whoever asks for any, and to outgoing connections; this one is of another
    range, and each process begins its search elsewhere.
    """
    low, high = 10_000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for step in range(high - low):
        port = low + (os.getpid() * 37 + next(_searches) + step) % (high - low)
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


_searches = itertools.count()
