"""The project's own checkpoint: a safetensors file whose metadata describe the model.

Names of weights begin with ``network.``. The metadata key ``jboost`` holds `ModelInfo` as JSON. The file stores no
code, and reading it runs none.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jboost.engine.errors import BadInputError, FailureError, one_line

from .joint import JointModel, check_normalization
from .weights_file import write_safetensors

FORMAT_VERSION = 1
METADATA_KEY = "jboost"
WEIGHTS_PREFIX = "network."
#: The most tensors of a checkpoint. A ViT-g has about 1,000, and a WRN-9999 15,000.
MOST_TENSORS = 50_000
_LARGEST = 1_000_000  # number of classes or channels


@dataclass(frozen=True)
class ModelInfo:
    """The description of a joint model: everything but its weights.

    Attributes:
        arch: architecture name, or ``package.module:factory``.
        num_classes: number of logits, at least 1.
        in_channels: number of image channels, at least 1.
        mean, std: normalisation, one value per channel, for images in [0, 1].
        l0: mean realness of real images (eq. 13), at least 0; None if unknown.
        class_names: one name per class; None if unknown.
        resolution: size in pixels of the images that the model is used on; None if unknown.

    Raises:
        BadInputError: a value out of range, or lengths that do not match.
    """

    arch: str
    num_classes: int
    in_channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    l0: float | None = None
    class_names: tuple[str, ...] | None = None
    resolution: int | None = None

    def __post_init__(self) -> None:
        if not self.arch:
            raise BadInputError("arch is empty")
        for what, value in (("num_classes", self.num_classes), ("in_channels", self.in_channels)):
            if value < 1:
                raise BadInputError(f"{what} must be at least 1, got {value}")
            if value > _LARGEST:
                raise BadInputError(f"{what} must be at most {_LARGEST:,}, got {value}")
        check_normalization(self.mean, self.std)
        if len(self.mean) != self.in_channels:
            raise BadInputError(f"{len(self.mean)} means for {self.in_channels} channels")
        if self.l0 is not None and not (math.isfinite(self.l0) and self.l0 >= 0.0):
            raise BadInputError(f"l0 must be a finite number of at least 0, got {self.l0}")
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise BadInputError(f"{len(self.class_names)} class names for {self.num_classes} classes")
        if self.resolution is not None and self.resolution < 1:
            raise BadInputError(f"resolution must be at least 1, got {self.resolution}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with ``format_version``; `from_dict` reads them back."""
        return {
            "format_version": FORMAT_VERSION,
            "arch": self.arch,
            "num_classes": self.num_classes,
            "in_channels": self.in_channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "l0": self.l0,
            "class_names": None if self.class_names is None else list(self.class_names),
            "resolution": self.resolution,
        }

    @classmethod
    def from_dict(cls, data: object) -> ModelInfo:
        """Read the output of `to_dict`.

        Raises:
            BadInputError: another format version, or an entry that is missing, unknown, of the wrong type or out of
                range.
        """
        if not isinstance(data, Mapping):
            raise BadInputError("the model description is not a JSON object")
        version = data.get("format_version")
        if version != FORMAT_VERSION:
            raise BadInputError(
                f"the model description has format version {version!r}, this jboost reads {FORMAT_VERSION}; update "
                "jboost"
            )
        expected = {"format_version", *cls.__dataclass_fields__}
        if odd := sorted(expected.symmetric_difference(map(str, data))):
            raise BadInputError(f"the model description has missing or unknown entries: {', '.join(odd)}")
        names, l0, resolution = data["class_names"], data["l0"], data["resolution"]
        return cls(
            arch=_string("arch", data["arch"]),
            num_classes=_integer("num_classes", data["num_classes"]),
            in_channels=_integer("in_channels", data["in_channels"]),
            mean=tuple(_number("mean", v) for v in _items("mean", data["mean"])),
            std=tuple(_number("std", v) for v in _items("std", data["std"])),
            l0=None if l0 is None else _number("l0", l0),
            class_names=None
            if names is None
            else tuple(_string("class_names", v) for v in _items("class_names", names)),
            resolution=None if resolution is None else _integer("resolution", resolution),
        )


def save_checkpoint(path: str | os.PathLike[str], model: JointModel, info: ModelInfo) -> None:
    """Write `model` to `path` (safetensors) atomically: a killed run leaves the old file or the new one.

    Args:
        path: the file to write or replace; its folder exists.
        model: weights of any float dtype, on any device; they are stored as they are.
        info: description of the model; mean and std must equal the model's.

    Raises:
        BadInputError: `info` disagrees with the model, or the folder does not exist.
        FailureError: writing failed (a full disk, no permission).
    """
    path = Path(path)
    for what, stated, actual in (("mean", info.mean, model.mean), ("std", info.std, model.std)):
        if not torch.equal(torch.tensor(stated), actual.detach().flatten().float().cpu()):
            raise BadInputError(
                f"the description's {what}, {list(stated)}, differs from the model's, {actual.flatten().tolist()}"
            )
    if not path.parent.is_dir():
        raise BadInputError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    # torch.compile wraps a module under `_orig_mod`; names in the file leave that out.
    tensors = {
        WEIGHTS_PREFIX + name.replace("_orig_mod.", ""): tensor for name, tensor in model.network.state_dict().items()
    }
    try:
        write_safetensors(path, tensors, {METADATA_KEY: json.dumps(info.to_dict())})
    except (OSError, SafetensorError) as error:
        raise FailureError(f"cannot write {path}: {one_line(error)}") from error


def check_count(path: Path, count: int) -> None:
    """Check the number of a checkpoint's tensors, before they are read.

    Raises:
        BadInputError: there are more than `MOST_TENSORS`.
    """
    if count > MOST_TENSORS:
        raise BadInputError(
            f"{path} holds {count:,} tensors, at most {MOST_TENSORS:,} are read; save the network's state_dict() alone"
        )


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], ModelInfo | None]:
    """Read all tensors of a safetensors file and the description that `save_checkpoint` stored.

    Returns:
        The tensors, on the CPU, with the file's names in the file's order; and the model's description, None if our
        trainer did not write the file.

    Raises:
        BadInputError: no file, not safetensors, truncated, or an invalid description.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInputError(f"no checkpoint file {path}; check the path")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            check_count(path, len(file.keys()))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise BadInputError(
            f"{path} is not a readable safetensors file ({one_line(error)}); download or copy it again"
        ) from error
    if METADATA_KEY not in metadata:
        return tensors, None
    try:
        return tensors, ModelInfo.from_dict(json.loads(metadata[METADATA_KEY]))
    except (BadInputError, ValueError, OverflowError, RecursionError) as error:
        raise BadInputError(f"{path}: the model description in its metadata is invalid: {error}") from error


def _items(what: str, value: object) -> Sequence[object]:
    if not isinstance(value, list):
        raise BadInputError(f"{what} must be a list, got {value!r}")
    return value


def _string(what: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadInputError(f"{what} must be text, got {value!r}")
    return value


def _integer(what: str, value: object) -> int:
    # In Python bool is a kind of int, in JSON it is not.
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadInputError(f"{what} must be a whole number, got {value!r}")
    return value


def _number(what: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadInputError(f"{what} must be a number, got {value!r}")
    return float(value)
