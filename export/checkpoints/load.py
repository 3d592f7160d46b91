"""Load any supported checkpoint as a joint model: recognise and check what it holds, and note every assumption."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from jboost.engine.errors import BadInputError
from jboost.trainer.architectures import NAMES, Architecture, build_network, find_architecture
from jboost.trainer.checkpoint import WEIGHTS_PREFIX, ModelInfo
from jboost.trainer.joint import NORMALIZATIONS, JointModel, parse_normalization
from jboost.trainer.resnet import RESNETS

from .read import read_weights, some_of
from .recognise import View, guess_in_channels, guess_num_classes, infer, views

# The released checkpoints take 64x64 images.
_RELEASED_RESOLUTION = 64

# BatchNorm's batch counter.
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True, eq=False)
class LoadedCheckpoint:
    """A model ready for export.

    Attributes:
        model: in eval mode, float32, on the CPU, no parameter requires a gradient.
        info: the model's description.
        sha256: hash of the file, in hexadecimal.
        notes: one-line remarks for the user on every assumption and everything left out.
    """

    model: JointModel
    info: ModelInfo
    sha256: str
    notes: tuple[str, ...]


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    arch: str | None = None,
    num_classes: int | None = None,
    normalization: str | None = None,
    resolution: int | None = None,
) -> LoadedCheckpoint:
    """Read a checkpoint of our trainer, the paper's, torchvision's, the Madry lab's, TRADES' or RobustBench's
    (``torch.save`` or safetensors; any float dtype).

    Args:
        path: the file.
        arch: architecture name or ``package.module:factory``; None infers it from the weights.
        num_classes: number of logits; None infers it from the weights.
        normalization: see `jboost.trainer.joint.parse_normalization`; None takes the checkpoint's own, else the
            architecture's usual one. A note says which.
        resolution: image size in pixels; None takes the stored or known one (released checkpoints 64, ``wrn_*`` 32),
            else leaves it open.

    Raises:
        BadInputError: the file is missing or damaged, holds pickled code, or is not a checkpoint; the architecture or
            the number of classes cannot be inferred or contradicts the weights; names or shapes do not fit; a weight
            is NaN or infinite.
    """
    path = Path(path)
    sha256 = _sha256(path)
    weights, stored, notes = read_weights(path)
    if stored is not None:
        found = _from_our_trainer(path, weights, stored, arch, num_classes)
    else:
        found = _from_elsewhere(path, weights, arch, num_classes)
    mean, std, remark = _normalization(found, normalization)
    notes += [*found.notes, remark, *found.view.notes]
    if resolution is None:
        resolution = found.resolution
        if resolution is not None:
            notes.append(f"resolution: {resolution} px ({found.resolution_from}; change with --resolution)")
    info = ModelInfo(
        arch=found.arch.name,
        num_classes=found.num_classes,
        in_channels=found.in_channels,
        mean=mean,
        std=std,
        l0=None if stored is None else stored.l0,
        class_names=None if stored is None else stored.class_names,
        resolution=resolution,
    )
    notes += _fill(path, found.network, found.view.weights, info.arch)
    model = JointModel(found.network, mean, std).eval().requires_grad_(False)
    return LoadedCheckpoint(model, info, sha256, tuple(notes))


@dataclass(frozen=True, eq=False)
class _Found:
    """A recognised checkpoint: the view to load and the network to load it into. `network` has no weights yet."""

    view: View
    arch: Architecture
    network: nn.Module
    num_classes: int
    in_channels: int
    resolution: int | None
    resolution_from: str
    notes: tuple[str, ...]


def _from_our_trainer(
    path: Path, weights: Mapping[str, Tensor], stored: ModelInfo, arch: str | None, num_classes: int | None
) -> _Found:
    """Read our trainer's own metadata; options may repeat it but not contradict it."""
    if arch is not None and find_architecture(arch).name != stored.arch:
        raise BadInputError(f"{path} was trained as {stored.arch}, not {arch}; leave --arch out")
    architecture = find_architecture(stored.arch)
    if not architecture.builtin and arch is None:
        # A file from elsewhere must not choose which module of this machine gets imported and called.
        raise BadInputError(
            f"{path} names custom code as its architecture; if you trust {stored.arch}, allow it with --arch "
            f"{shlex.quote(stored.arch)}"
        )
    if num_classes not in (None, stored.num_classes):
        raise BadInputError(f"{path} has {stored.num_classes} classes, not {num_classes}; leave --num-classes out")
    stripped = {name.removeprefix(WEIGHTS_PREFIX): tensor for name, tensor in weights.items()}
    return _Found(
        view=View(stripped, stored.mean, stored.std),
        arch=architecture,
        network=_build(architecture, stored.num_classes, stored.in_channels),
        num_classes=stored.num_classes,
        in_channels=stored.in_channels,
        resolution=stored.resolution,
        resolution_from="stored in the checkpoint",
        notes=(f"architecture: {stored.arch}, {stored.num_classes} classes (stored in the checkpoint)",),
    )


def _from_elsewhere(path: Path, weights: Mapping[str, Tensor], arch: str | None, num_classes: int | None) -> _Found:
    """Infer from the weights whatever the options leave out, then choose the view that fits the network best."""
    peeled = list(views(weights))
    architecture = None if arch is None else find_architecture(arch)
    inferred = next((found for view in peeled if (found := infer(view.shapes)) is not None), None)
    if architecture is None:
        if inferred is None:
            raise BadInputError(
                f"cannot infer the architecture of {path} from its weights ({some_of(peeled[-1].weights)}); name it: "
                f"--arch package.module:factory, or one of {', '.join(NAMES)}"
            )
        architecture = find_architecture(inferred.arch)
    elif inferred is not None and architecture.builtin and architecture.name != inferred.arch:
        raise BadInputError(f"the weights in {path} belong to {inferred.arch}, not {arch}; leave --arch out")
    told = inferred.num_classes if inferred is not None else guess_num_classes(peeled)
    if num_classes is not None and told is not None and num_classes != told:
        raise BadInputError(f"the last layer in {path} has {told} classes, not {num_classes}; leave --num-classes out")
    if told is None and inferred is not None:
        told = 1  # the last layer is missing: `_fill` reports it
    classes = num_classes if num_classes is not None else told
    if classes is None:
        raise BadInputError(f"cannot infer the number of classes of {path} from its weights; give --num-classes")
    channels = inferred.in_channels if inferred is not None else guess_in_channels(peeled)
    network = _build(architecture, classes, channels)
    view = min(peeled, key=lambda candidate: sum(map(len, _compare(candidate.weights, network))))
    released = view.released and architecture.name in RESNETS
    kind = "the paper's released checkpoint" if released else "inferred from the weights" if arch is None else "--arch"
    used_at = "image size of the released checkpoints" if released else f"usual image size of {architecture.name}"
    return _Found(
        view=view,
        arch=architecture,
        network=network,
        num_classes=classes,
        in_channels=channels,
        resolution=_RELEASED_RESOLUTION if released else architecture.resolution,
        resolution_from=used_at,
        notes=(f"architecture: {architecture.name}, {classes} classes ({kind})",),
    )


def _normalization(found: _Found, asked: str | None) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Return mean and std per channel, and a remark on their source: option, else checkpoint, else the usual values."""
    view, channels = found.view, found.in_channels
    if asked is not None:
        replaced = "" if view.mean is None else ", in place of the checkpoint's own"
        return *parse_normalization(asked, channels), f"normalisation: {asked} (--normalize{replaced})"
    if view.mean is not None and view.std is not None:
        mean, std = (v * channels if len(v) == 1 else v for v in (view.mean, view.std))
        if len(mean) != channels or len(std) != channels:
            raise BadInputError(
                f"the checkpoint's normaliser has {len(mean)} means and {len(std)} stds for {channels} channels; give "
                "--normalize"
            )
        return mean, std, f"normalisation: mean {_numbers(mean)}, std {_numbers(std)} (stored in the checkpoint)"
    if found.arch.normalization == "imagenet" and channels == 3:
        remark = "normalisation: ImageNet mean/std (torchvision ResNet; change with --normalize)"
        return *NORMALIZATIONS["imagenet"], remark
    remark = "normalisation: none (the checkpoint holds none; change with --normalize)"
    return *parse_normalization("none", channels), remark


def _build(architecture: Architecture, num_classes: int, in_channels: int) -> nn.Module:
    """Build a network to load weights into.

    Our own networks are built on the meta device and take no memory until then. A factory runs normally, because it may
    compute buffers that no file stores.
    """
    with torch.device("meta") if architecture.builtin else contextlib.nullcontext():
        return build_network(architecture.name, num_classes, in_channels)


def _compare(weights: Mapping[str, Tensor], network: nn.Module) -> tuple[list[str], list[str], list[str]]:
    """Return missing names, unexpected names and differing shapes; BatchNorm's counters are ignored."""
    expected = network.state_dict()
    missing = [n for n in expected if n not in weights and not n.endswith(_COUNTER)]
    unexpected = [n for n in weights if n not in expected and not n.endswith(_COUNTER)]
    wrong = [
        f"{n} {list(weights[n].shape)} where {list(expected[n].shape)} is needed"
        for n in expected
        if n in weights and not n.endswith(_COUNTER) and weights[n].shape != expected[n].shape
    ]
    return missing, unexpected, wrong


def _fill(path: Path, network: nn.Module, weights: Mapping[str, Tensor], arch: str) -> list[str]:
    """Check `weights` and load them into `network` as float32; return remarks."""
    kinds = ("missing", "unexpected", "wrong shape")
    faults = [f"{kind}: {some_of(n)}" for kind, n in zip(kinds, _compare(weights, network), strict=True) if n]
    if faults:
        raise BadInputError(f"{path} does not fit {arch}: {'; '.join(faults)}; check --arch and --num-classes")
    filled: dict[str, Tensor] = {}
    dtypes: set[str] = set()
    for name, needed in network.state_dict().items():
        if name.endswith(_COUNTER):
            # Only training reads the counter, and old checkpoints lack it.
            filled[name] = torch.zeros((), dtype=torch.int64)
            continue
        tensor = weights[name].detach()
        dense = tensor.layout == torch.strided and not tensor.is_quantized
        if not dense or tensor.is_floating_point() != needed.is_floating_point():
            raise BadInputError(
                f"{name} in {path} is {tensor.dtype}, {tensor.layout}; save the model with plain float32 weights"
            )
        if not tensor.is_floating_point():
            filled[name] = tensor.to(needed.dtype, copy=True)
            continue
        dtypes.add(str(tensor.dtype).removeprefix("torch."))
        filled[name] = tensor.to(torch.float32, copy=True).contiguous()
        if not bool(torch.isfinite(filled[name]).all()):
            raise BadInputError(
                f"{name} in {path} holds NaN or infinite values; use an earlier checkpoint of the training"
            )
    network.load_state_dict(filled, assign=True)
    network.float()
    dtypes.discard("float32")
    return [f"weights: {', '.join(sorted(dtypes))} converted to float32"] if dtypes else []


def _sha256(path: Path) -> str:
    """Hash a file, which must exist and not be empty."""
    if path.is_dir():
        raise BadInputError(f"{path} is a folder; give the checkpoint file in it")
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise BadInputError(f"{path} is empty; download or copy it again")
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        raise BadInputError(f"no checkpoint file {path}; check the path given to --ckpt") from None
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}; check its permissions") from error


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{v:.4g}" for v in values)
