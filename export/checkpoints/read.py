"""Read the weights out of a checkpoint file, whoever wrote it, and refuse what is no plain tensor with its values.

This module never executes pickles: it reads with ``torch.load(weights_only=True)`` and safetensors only.
"""

from __future__ import annotations

import pickle
import re
import shlex
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from jboost.engine.errors import BadInputError, one_line
from jboost.trainer.checkpoint import ModelInfo, check_count, read_safetensors

# Names that training scripts give the state dict, the likeliest first.
_CONTAINERS = ("model", "state_dict", "model_state_dict", "network", "net")

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


def read_weights(path: Path) -> tuple[Mapping[str, Tensor], ModelInfo | None, list[str]]:
    """Return the file's state dict, our trainer's metadata (None in other files), and remarks.

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
        what = f"a dict of {some_of(content)}" if content else "an empty dict"
    raise BadInputError(
        f"{path} holds {what}, not a state dict; save model.state_dict(), by itself or under the key 'state_dict'"
    )


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
