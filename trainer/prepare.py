"""Open the images that a run trains and validates on, from the paths in a configuration."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.samples.about import label_line
from jboost.engine.samples.options import ReadOptions, parse_background, parse_class_folders

from .config import TrainConfig
from .data import ImageData, MixedData, check_pair, count_classes, decode_all, hold_out, open_generated, open_real


@dataclass(frozen=True)
class TrainingData:
    """The images that a run trains and validates on.

    Attributes:
        real, generated: the training images, square, with one number of channels, and with one size unless generated
            images may have their own.
        held_out: real and generated images to validate on; None: no validation.
    """

    real: ImageData
    generated: MixedData
    held_out: tuple[ImageData, ImageData] | None = None

    @property
    def fingerprint(self) -> dict[str, str]:
        """Hashes of the number, size and labels of the images, not of their pixels; they show a change of the data."""
        return {"real": _fingerprint(self.real), "generated": _fingerprint(self.generated)}


def open_data(config: TrainConfig, *, decode: bool, say: Callable[[str], object]) -> tuple[TrainingData, int]:
    """Open and check all images before training.

    Args:
        config: sets paths, sizes and counts.
        decode: also read every image once, on the main process.
        say: called with each warning.

    Returns:
        The data and the number of classes.

    Raises:
        BadInputError: a set cannot be used; the message names its path.
    """
    reading = _reading(config)
    real = open_real(Path(config.real), resolution=config.resolution, channels=config.channels, reading=reading)
    _, height, width, _ = real.shape
    if height != width:
        raise BadInputError(f"{real.path} has images of {width}x{height}; make them square with --resolution N")
    classes = config.num_classes or count_classes(real)
    own_size = config.generated_size == "own"
    labelled = config.generated_labels == "own"
    generated = _open_generated(
        [Path(path) for path in config.generated],
        config.generated_weights,
        real,
        classes,
        reading,
        size=None if own_size else height,
        labelled=labelled,
    )
    _, tall, wide, _ = generated.shape
    if tall != wide:
        raise BadInputError(f"{generated.path} has images of {wide}x{tall}; training takes square images")
    if config.real_crop:
        real.original(0)  # a set that has no images at their own size is refused before training
        before = f"resized to {config.real_resize} by its shorter side" if config.real_resize else "from its own size"
        say(f"{real.path}: training crops the images at random, each {before}, to {height}x{height}")
    if generated.shape[1] != height:
        say(
            f"real images of {height}x{height} train beside generated ones of {wide}x{tall}; the checkpoints are for "
            f"{wide}x{tall}, and l0 is the mean over real images of {height}x{height}"
        )
    for data in (real, *generated.sources):
        of_its_own = labelled or data is real
        say(f"{data.path}: {label_line(data) if of_its_own else f'labels of {data.label_source}'}")
    for note in check_pair(
        real,
        generated,
        num_classes=classes,
        missing_classes=config.missing_classes,
        own_size=own_size,
        labelled=labelled,
    ):
        say(note)
    if decode and int(os.environ.get("RANK", "0")) == 0:
        for data in (real, generated):
            decode_all(data)
    # Held-out images come from the training sets unless validation sets are given.
    train_real, val_real = _split_real(config, real)
    train_generated, val_generated = _split_generated(config, generated, real, classes)
    held_out = None if val_real is None or val_generated is None else (val_real, val_generated)
    return TrainingData(train_real, train_generated, held_out), classes


def _reading(config: TrainConfig) -> ReadOptions:
    return ReadOptions(
        background=parse_background(config.background), class_folders=parse_class_folders(config.class_folders)
    )


def _open_generated(
    paths: list[Path],
    weights: tuple[float, ...] | None,
    real: ImageData,
    classes: int,
    reading: ReadOptions,
    *,
    size: int | None,
    labelled: bool,
) -> MixedData:
    return open_generated(
        paths,
        weights,
        num_classes=classes,
        resolution=size,
        channels=real.shape[3],
        class_names=real.class_names,
        reading=reading,
        labelled=labelled,
    )


def _split_real(config: TrainConfig, real: ImageData) -> tuple[ImageData, ImageData | None]:
    if not config.held_out:
        return real, None
    if config.validation_real is None:
        return hold_out(real, config.held_out, config.seed)
    _, size, _, channels = real.shape
    return real, _at_most(
        open_real(Path(config.validation_real), resolution=size, channels=channels, reading=_reading(config)), config
    )


def _split_generated(
    config: TrainConfig, generated: MixedData, real: ImageData, classes: int
) -> tuple[MixedData, ImageData | None]:
    if not config.held_out:
        return generated, None
    if config.validation_generated is None:
        return generated.hold_out(config.held_out, config.seed)
    return generated, _at_most(
        _open_generated(
            [Path(config.validation_generated)],
            None,
            real,
            classes,
            _reading(config),
            size=generated.shape[1],
            labelled=config.generated_labels == "own",
        ),
        config,
    )


def _at_most(data: ImageData, config: TrainConfig) -> ImageData:
    """`held_out` images of a set, chosen at random; all images of a smaller set."""
    count = data.shape[0]
    return data if count <= config.held_out else hold_out(data, config.held_out, config.seed)[1]


def _fingerprint(data: ImageData) -> str:
    digest = hashlib.sha256(json.dumps(list(data.shape)).encode())
    digest.update(np.ascontiguousarray(data.labels).tobytes())
    return digest.hexdigest()
