"""The state that a killed run resumes from: one safetensors file, replaced atomically.

The file holds the weights, their moving average and the optimizer's moments as tensors. Its metadata hold the rest as
JSON: iteration, loss scale, best validation so far, fingerprint of the data. The rename that replaces the file commits
the progress: before it the old state counts, after it the new one. The file holds no random state and no positions in
the data, because both are functions of the seed and the iteration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jboost.engine.errors import BadInputError, FailureError, one_line

from .weights_file import write_safetensors

FILE = "state.safetensors"
_VERSION = 1
_KEY = "jboost-training"


@dataclass(frozen=True, eq=False)
class State:
    """A run between two iterations.

    Attributes:
        iteration: number of iterations done.
        tensors: tensors by name; `load_state` returns them on the CPU.
        facts: everything else, as JSON values.
    """

    iteration: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


def save_state(folder: Path, state: State) -> None:
    """Replace the folder's state atomically.

    Raises:
        FailureError: writing failed; the old state is unchanged.
    """
    path = folder / FILE
    meta = {"version": _VERSION, "iteration": state.iteration, "facts": dict(state.facts)}
    try:
        write_safetensors(path, state.tensors, {_KEY: json.dumps(meta)})
    except (OSError, SafetensorError) as e:
        raise FailureError(f"cannot write {path}: {one_line(e)}; free disk space and continue with --resume") from e


def load_state(folder: Path) -> State | None:
    """Load the folder's state; None if there is none yet.

    Raises:
        BadInputError: the file is damaged or of another version.
    """
    return _load(folder / FILE, tensors=True)


def saved_iteration(folder: Path) -> int:
    """The number of iterations done in the folder's state, without reading its tensors; 0 if there is no state yet.

    Raises:
        BadInputError: the file is damaged or of another version.
    """
    state = _load(folder / FILE, tensors=False)
    return 0 if state is None else state.iteration


def _load(path: Path, *, tensors: bool) -> State | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            meta = json.loads((file.metadata() or {})[_KEY])
            names = file.keys() if tensors else ()
            loaded = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError, KeyError, ValueError) as e:
        raise BadInputError(f"{path} is not a training state ({one_line(e)}); start again in another -o") from e
    if meta["version"] != _VERSION:
        raise BadInputError(
            f"{path} has version {meta['version']!r}, this jboost reads {_VERSION}; use the jboost that wrote it"
        )
    return State(meta["iteration"], loaded, meta["facts"])


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's moments, named ``optimizer.<parameter>.<moment>``; its settings are in the configuration."""
    moments = optimizer.state_dict()["state"]
    return {
        f"optimizer.{index}.{name}": value
        for index, entries in moments.items()
        for name, value in entries.items()
        if isinstance(value, Tensor)
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the output of `pack_optimizer`, in the weights' memory layout: another layout would round differently."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, moment = name.split(".", 2)
            weight = weights[int(index)]
            like = value.shape == weight.shape
            moments.setdefault(int(index), {})[moment] = torch.empty_like(weight).copy_(value) if like else value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
