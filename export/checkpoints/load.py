"""Load any supported checkpoint as a joint model: recognise and check what it holds, and note every assumption."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from jboost.engine.errors import BadInputError
from jboost.trainer.architectures import find_architecture
from jboost.trainer.checkpoint import WEIGHTS_PREFIX, ModelInfo
from jboost.trainer.joint import JointModel

from .elsewhere import Found, build, from_elsewhere
from .fit import best_fit, fill, settled
from .normalization import find_normalization
from .recognise import View
from .source import Source, open_source


@dataclass(frozen=True, eq=False)
class LoadedCheckpoint:
    """A model ready for export.

    Attributes:
        model: in eval mode, float32, on the CPU, no parameter requires a gradient.
        info: the model's description.
        sha256: hash of the file, in hexadecimal; of the weights where there is no file.
        notes: one-line remarks for the user on every assumption and everything left out.
        name: the file's name; where there is no file, what the weights were asked for by.
        counted: False where the number of classes is read off the network's last layer alone: its output may differ.
        normalized: False where nothing says the normalisation; only without `required`.
    """

    model: JointModel
    info: ModelInfo
    sha256: str
    notes: tuple[str, ...]
    name: str = ""
    counted: bool = True
    normalized: bool = True


def load_checkpoint(
    path: str | os.PathLike[str] | None,
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    normalization: str | None = None,
    resolution: int | None = None,
    required: bool = True,
) -> LoadedCheckpoint:
    """Read a checkpoint of our trainer, the paper's, torchvision's, the Madry lab's, TRADES' or RobustBench's
    (``torch.save`` or safetensors; any float dtype), a folder of timm's or Hugging Face's, or any network with `arch`.

    Args:
        path: the file or folder; None takes the weights that `arch` brings, see `open_source`.
        arch: see `find_architecture`; None infers it from the weights and the files beside them.
        num_classes: number of logits; None infers it from the weights.
        in_channels: number of image channels; None infers it from the weights and the network.
        normalization: see `jboost.trainer.joint.parse_normalization`; None takes what the checkpoint, timm or the files
            beside the weights say, else the usual one where the architecture is our own. A note says which.
        resolution: image size in pixels; None takes the stored or known one (released checkpoints 64, ``wrn_*`` 32),
            else leaves it open.
        required: False leaves an unknown normalisation open instead of asking for it.

    Raises:
        BadInputError: the file is missing or damaged, holds pickled code, or is not a checkpoint; the architecture, the
            number of classes or the normalisation cannot be inferred or contradicts the weights; names or shapes do not
            fit; a weight is NaN or infinite.
    """
    for option, value in (("--num-classes", num_classes), ("--in-channels", in_channels)):
        if value is not None and value < 1:
            raise BadInputError(f"{option} must be at least 1, got {value}")
    source = open_source(None if path is None else Path(path), arch)
    content, stored = source.content, source.content.stored
    if stored is not None:
        found = _from_our_trainer(source, stored, arch, num_classes, in_channels)
    else:
        found = from_elsewhere(source, num_classes, in_channels)
    said = [content.usual, found.arch.usual(found.network), source.facts.usual]
    normal = find_normalization(
        source.path, normalization, found.view, said, found.arch, found.in_channels, required=required
    )
    notes = [*content.notes, *source.facts.notes, *found.notes, normal.remark, *found.view.notes]
    if resolution is None:
        resolution = found.resolution
        if resolution is not None:
            notes.append(f"resolution: {resolution} px ({found.resolution_from}; change with --resolution)")
    info = ModelInfo(
        arch=found.arch.name,
        num_classes=found.num_classes,
        in_channels=found.in_channels,
        mean=normal.mean,
        std=normal.std,
        l0=None if stored is None else stored.l0,
        class_names=None if stored is None else stored.class_names,
        resolution=resolution,
    )
    notes += fill(source.path, found.network, found.view.weights)
    model = JointModel(found.network, normal.mean, normal.std).eval().requires_grad_(False)
    return LoadedCheckpoint(model, info, source.sha256, tuple(notes), source.path.name, found.counted, normal.known)


def _from_our_trainer(
    source: Source, stored: ModelInfo, arch: str | None, num_classes: int | None, in_channels: int | None
) -> Found:
    """Read our trainer's own metadata; options may repeat it but not contradict it."""
    path = source.path
    if source.asked is not None and source.asked.name != stored.arch:
        raise BadInputError(f"{path} was trained as {stored.arch}, not {arch}; leave --arch out")
    architecture = source.asked or find_architecture(stored.arch)
    if not (architecture.builtin or architecture.registered) and source.asked is None:
        # A file from elsewhere must not choose which module of this machine gets imported and called.
        raise BadInputError(
            f"{path} names custom code as its architecture; if you trust {stored.arch}, allow it with --arch "
            f"{shlex.quote(stored.arch)}"
        )
    if num_classes not in (None, stored.num_classes):
        raise BadInputError(f"{path} has {stored.num_classes} classes, not {num_classes}; leave --num-classes out")
    if in_channels not in (None, stored.in_channels):
        raise BadInputError(f"{path} takes {stored.in_channels} channels, not {in_channels}; leave --in-channels out")
    stripped = {name.removeprefix(WEIGHTS_PREFIX): tensor for name, tensor in source.content.weights.items()}
    network = build(architecture, stored.num_classes, stored.in_channels)
    view = View(stripped, stored.mean, stored.std)
    return Found(
        view=settled(path, best_fit(path, [view], network), network, architecture.name, guessed=True),
        arch=architecture,
        network=network,
        num_classes=stored.num_classes,
        in_channels=stored.in_channels,
        resolution=stored.resolution,
        resolution_from="stored in the checkpoint",
        notes=(f"architecture: {stored.arch}, {stored.num_classes} classes (stored in the checkpoint)",),
    )
