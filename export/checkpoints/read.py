"""Read the weights out of a checkpoint file, whoever wrote it, and refuse what is no plain tensor with its values.

This module never executes pickles: it reads with ``torch.load(weights_only=True)`` and safetensors only.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeGuard

import torch
from safetensors import safe_open
from torch import Tensor

from jboost.engine.errors import BadInputError, one_line, printable
from jboost.engine.system.commands import in_shell
from jboost.trainer.checkpoint import ModelInfo, check_count, read_safetensors
from jboost.trainer.registries import Usual, usual_of

# Names that training scripts give the state dict: averaged weights first, then the likeliest first.
_AVERAGED = (
    "state_dict_ema",
    "model_ema",
    "ema",
    "ema_state_dict",
    "ema_model",
    "params_ema",
    "module_ema",
    "model_ema_state_dict",
)
_CONTAINERS = (*_AVERAGED, "model", "state_dict", "model_state_dict", "network", "net", "module", "weights", "params")
# Entries that name the architecture; timm's and torchvision's training scripts keep their arguments too.
_ARCH_ENTRIES = ("arch", "architecture", "model_name")
_ARGUMENTS, _ARCH_ARGUMENTS = ("args", "hparams", "hyper_parameters", "config"), ("model", "arch", "architecture")

_LONGEST_NAME = 2_000
# The most bytes of a tensor that repeats fewer stored values (stride 0).
_MOST_REPEATED = 1 << 30

# Takes the same entry as `_state_dict` does, and says which. The architecture that the file names is kept as metadata.
_CONVERT = (
    f"import sys, torch; from safetensors.torch import save_file; K = {_CONTAINERS}; "
    "sd = lambda v: v.state_dict() if hasattr(v, 'state_dict') else v; "
    "ok = lambda v: isinstance(v, dict) and len(v) > 0 and all(map(torch.is_tensor, v.values())); "
    "get = lambda v: [(k, sd(v[k])) for k in K if k in v] if isinstance(v, dict) else []; "
    "f = sd(torch.load(sys.argv[1], map_location='cpu', weights_only=False)); "
    "found = [(k, w) for k, v in get(f) for w in [v, *(w for _, w in get(v))] if ok(w)]; "
    "k, c = (found or [('none, the file itself', f)])[0]; a = f.get('arch') if isinstance(f, dict) else None; "
    "save_file({n: t.clone().contiguous() for n, t in c.items() if torch.is_tensor(t)}, sys.argv[2], "
    "{'arch': a} if isinstance(a, str) else None); print('weights: entry', k)"
)


@dataclass(frozen=True)
class Content:
    """What a checkpoint file holds.

    Attributes:
        weights: name -> tensor.
        stored: our trainer's metadata; None in other files.
        arch: the architecture that the file names, as it was written; None if it names none.
        usual: the normalisation among the arguments of a training that the file keeps; None if it keeps none.
        notes: remarks.
        arguments: what the network's constructor was given in the training, beside its name and the two numbers.
    """

    weights: Mapping[str, Tensor]
    stored: ModelInfo | None = None
    arch: str | None = None
    usual: Usual | None = None
    notes: tuple[str, ...] = ()
    arguments: Mapping[str, object] = field(default_factory=dict)


def read_weights(path: Path) -> Content:
    """Read a checkpoint file.

    Raises:
        BadInputError: the file is no checkpoint, holds code or no state dict, or a tensor is not plain.
    """
    with open(path, "rb") as file:
        start = file.read(9)
    if start[8:] == b"{" or path.suffix == ".safetensors":
        tensors, stored = read_safetensors(path)
        if not tensors:
            raise BadInputError(f"{path} holds no tensors; save the model again")
        _check_tensors(path, tensors)
        with safe_open(path, framework="pt") as file:
            named = (file.metadata() or {}).get("arch")
        return Content(tensors, stored, arch=named)
    _check_archive(path)
    # torch.save writes a zip archive; before 1.6 it wrote pickles, protocol 2.
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise BadInputError(
            f"{path} is not a checkpoint: neither torch.save nor safetensors wrote it; give a .pt, .pth or "
            ".safetensors file"
        )
    content = _unpickle_weights(path)
    weights, notes = _state_dict(path, content)
    _check_tensors(path, weights)
    named, usual, arguments = _told(content)
    return Content(weights, None, named, usual, tuple(notes), arguments)


def _check_archive(path: Path) -> None:
    """Refuse a zip archive that torch.save did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return  # no archive, or a damaged one: torch's reader decides
    if any(name.endswith(("data.pkl", "constants.pkl")) for name in names):
        return
    if any(name.endswith(".npy") for name in names):
        raise BadInputError(
            f"{path} holds arrays, like a set of samples, and no network; pass the network's file to --ckpt, and images to "
            "--real or to jboost boost"
        )
    raise BadInputError(f"{path} is a zip archive that torch.save did not write; give a .pt, .pth or .safetensors file")


def _told(content: object) -> tuple[str | None, Usual | None, dict[str, object]]:
    """The architecture, the normalisation and the constructor's arguments that a training script wrote beside the weights."""
    arguments: dict[str, object] = {}
    if not isinstance(content, Mapping):
        return None, None, arguments
    named = next((v for e in _ARCH_ENTRIES if isinstance(v := content.get(e), str)), None)
    usual = None
    for entry in _ARGUMENTS:
        kept = content.get(entry)
        kept = vars(kept) if isinstance(kept, argparse.Namespace) else kept
        if isinstance(kept, Mapping):
            named = named or next((v for e in _ARCH_ARGUMENTS if isinstance(v := kept.get(e), str)), None)
            usual = usual or usual_of(kept, f"the checkpoint's {entry}")
            given = kept.get("model_kwargs") or kept.get("model_args")
            if isinstance(given, Mapping):
                arguments |= {
                    printable(str(name)[:100]): value
                    for name, value in given.items()
                    if name not in ("num_classes", "in_chans")
                }
    return None if named is None else printable(named[:200]), usual, arguments


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
            continue  # `load_checkpoint` refuses it if the network needs it
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
            # A Namespace is an object with attributes and no code; timm keeps the arguments of a training in one.
            with torch.serialization.safe_globals([argparse.Namespace]):
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
            f"{path} holds pickled code ({named[1]}), which jboost never runs; only if you trust the file, convert it "
            f'once (this runs its code), with the packages it needs installed: python -c "{_CONVERT}" '
            f"{in_shell(path)} {in_shell(out)}"
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
        # One level deeper too, as in {"ema": {"module": ...}}.
        inside = {key: found for key, value in content.items() if (found := _inside(value)) is not None}
        for key in _CONTAINERS:
            if key in inside:
                others = ", ".join(repr(other) for other in inside if other != key)
                why = " (averaged weights are preferred)" if key in _AVERAGED else ""
                return inside[key], [f"weights: entry {key!r} of the file, not {others}{why}"] if others else []
    what = f"a {type(content).__name__}"
    if isinstance(content, Mapping):
        what = f"a dict of {some_of(content)}" if content else "an empty dict"
    raise BadInputError(
        f"{path} holds {what}, not a state dict; save model.state_dict(), by itself or under the key 'state_dict'"
    )


def _inside(value: object) -> Mapping[str, Tensor] | None:
    """A state dict, or the one that a dict holds under a usual name."""
    if _is_state_dict(value):
        return value
    if isinstance(value, Mapping):
        return next((found for key in _CONTAINERS if _is_state_dict(found := value.get(key))), None)
    return None


def _is_state_dict(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items())
    )


def some_of(names: Iterable[object]) -> str:
    """List up to eight names, and count the rest."""
    listed = [str(name) for name in names]
    more = f" and {len(listed) - 8} more" if len(listed) > 8 else ""
    return ", ".join(listed[:8]) + more
