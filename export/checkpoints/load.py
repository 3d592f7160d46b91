"""Load any supported checkpoint as a joint model: read, recognise and check it, and note every assumption.

This module never executes pickles: it reads with ``torch.load(weights_only=True)`` and safetensors only.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn

from jboost.engine.errors import BadInputError, one_line
from jboost.trainer.architectures import NAMES, Architecture, build_network, find_architecture
from jboost.trainer.checkpoint import WEIGHTS_PREFIX, ModelInfo, check_count, read_safetensors
from jboost.trainer.joint import NORMALIZATIONS, JointModel, parse_normalization
from jboost.trainer.resnet import RESNETS

from .recognise import View, guess_in_channels, guess_num_classes, infer, views

# The released checkpoints take 64x64 images.
_RELEASED_RESOLUTION = 64

# Names that training scripts give the state dict, the likeliest first.
_CONTAINERS = ("model", "state_dict", "model_state_dict", "network", "net")

# BatchNorm's batch counter.
_COUNTER = "num_batches_tracked"

_LONGEST_NAME = 2_000
# The most bytes of a tensor that repeats fewer stored values (stride 0).
_MOST_REPEATED = 1 << 30

_CONVERT = (
    "import sys, torch; from safetensors.torch import save_file; "
    "c = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
    "c = next((c[k] for k in ('model', 'state_dict', 'model_state_dict') if k in c), c) if isinstance(c, dict) else c; "
    "c = c.state_dict() if hasattr(c, 'state_dict') else c; "
    "save_file({k: v.clone().contiguous() for k, v in c.items() if torch.is_tensor(v)}, sys.argv[2])"
)


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
    weights, stored, notes = _read(path)
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
                f"cannot infer the architecture of {path} from its weights ({_some(peeled[-1].weights)}); name it: "
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
    faults = [f"{kind}: {_some(n)}" for kind, n in zip(kinds, _compare(weights, network), strict=True) if n]
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


def _read(path: Path) -> tuple[Mapping[str, Tensor], ModelInfo | None, list[str]]:
    """Return the file's state dict, our trainer's metadata (None in other files), and remarks."""
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{" or path.suffix == ".safetensors":
        tensors, stored = read_safetensors(path)
        if not tensors:
            raise BadInputError(f"{path} holds no tensors; save the model again")
        _check_tensors(path, tensors)
        return tensors, stored, []
    # torch.save writes a zip archive; before 1.6 it wrote pickles, protocol 2.
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise BadInputError(
            f"{path} is not a checkpoint: neither torch.save nor safetensors wrote it; give a .pt, .pth or "
            ".safetensors file"
        )
    weights, notes = _state_dict(path, _unpickle_weights(path))
    _check_tensors(path, weights)
    return weights, None, notes


def _check_tensors(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Refuse what is no plain tensor with its values, before anything asks for its shape or copies it."""
    check_count(path, len(weights))
    for name, tensor in weights.items():
        if len(name) > _LONGEST_NAME:
            raise BadInputError(
                f"a name in {path} has {len(name):,} characters ({name[:40]}...), at most {_LONGEST_NAME:,} are read; save the "
                "plain network's state_dict()"
            )
        if tensor.is_nested:
            raise BadInputError(f"{name} in {path} is a nested tensor; save the model with plain tensors")
        if tensor.is_meta:
            raise BadInputError(
                f"{name} in {path} is a meta tensor: the file holds its shape and no values; save the model after its "
                "weights are loaded"
            )
        if tensor.layout != torch.strided or tensor.is_quantized:
            continue  # `_fill` refuses it if the network needs it
        size = tensor.numel() * tensor.element_size()
        if size > max(tensor.untyped_storage().nbytes(), _MOST_REPEATED):
            raise BadInputError(
                f"{name} in {path} repeats its values to {list(tensor.shape)}, {size:,} bytes; save the model with "
                "contiguous tensors"
            )


def _unpickle_weights(path: Path) -> object:
    """Call ``torch.load(weights_only=True)`` and report a failure in one line."""
    check_count(path, _count_records(path))  # a record for each tensor, and a few more
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern how the file was written, which the user cannot change
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch 2.13 words a refusal as "GLOBAL some.name was not an allowed ..."; a damaged pickle names nothing.
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise BadInputError(
                f"{path} is not a checkpoint that torch.save wrote, or it is damaged; download or copy it again"
            ) from None
        out = path.with_suffix(".safetensors")
        raise BadInputError(
            f"{path} holds pickled code ({named[1]}), which jboost never runs; if you trust its author, convert it "
            f'once, with the packages it needs installed: python -c "{_CONVERT}" {shlex.quote(str(path))} {shlex.quote(str(out))}'
        ) from None
    except MemoryError:
        raise
    except Exception as error:
        # Damaged bytes can raise anything in the reader: EOFError, KeyError, RuntimeError, ...
        if "TorchScript" in str(error):
            raise BadInputError(
                f"{path} is a TorchScript archive, which holds code; save the model's state_dict() instead"
            ) from None
        raise BadInputError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {one_line(error)}); it is truncated or another "
            "kind of file; download or copy it again"
        ) from error


def _count_records(path: Path) -> int:
    """The number of files in a zip archive; 0 for anything else, such as what torch wrote before 1.6."""
    try:
        with zipfile.ZipFile(path) as archive:
            return len(archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return 0


def _state_dict(path: Path, content: object) -> tuple[Mapping[str, Tensor], list[str]]:
    """Find the state dict inside an object that a training script saved."""
    if _is_state_dict(content):
        return content, []
    if isinstance(content, Mapping):
        inside = {key: value for key, value in content.items() if _is_state_dict(value)}
        for key in _CONTAINERS:
            if key in inside:
                others = ", ".join(str(other) for other in inside if other != key)
                return inside[key], [f"weights: entry {key!r} of the file, not {others}"] if others else []
    what = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        what = f"a dict of {_some(content)}" if content else "an empty dict"
    raise BadInputError(
        f"{path} holds {what}, not a state dict; save model.state_dict(), by itself or under the key 'state_dict'"
    )


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


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


def _some(names: Iterable[object]) -> str:
    """List up to eight names, and count the rest."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return ", ".join(listed[:8]) + more


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{v:.4g}" for v in values)
