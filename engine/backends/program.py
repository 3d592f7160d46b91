"""Reading ``forward.pt2``: the forward pass as a torch.export program, which runs without the model's code."""

from __future__ import annotations

import io
import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, first_line


def load_forward(bundle: Bundle, device: str) -> torch.nn.Module:
    """A bundle's forward pass on `device`: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes].

    It is the forward program of a trusted bundle. That of another bundle is code, so the network is built from the weights.

    Raises:
        BadInputError: a file is missing, changed or unreadable, or the bundle is not trusted and cannot be rebuilt.
    """
    if not bundle.trusted and bundle.rebuild is not None:
        network: torch.nn.Module = bundle.rebuild(bundle)
        return network.to(device).requires_grad_(False)
    return load_program(bundle.checked_path("forward"), device)


def load_program(path: Path, device: str) -> torch.nn.Module:
    """The forward pass stored in `path`, on `device`: float32 [B, C, H, W] in [0, 1] -> logits [B, num_classes].

    Raises:
        BadInputError: `path` is not a torch.export program, or it contains pickled objects.
    """
    _refuse_pickles(path)
    try:
        with warnings.catch_warnings():
            # torch 2.11 warns about a buffer that it reads itself; nothing writes to it.
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            program = torch.export.load(path)
    except Exception as e:  # torch.export.load raises whatever its parser meets
        raise BadInputError(
            f"torch {torch.__version__} cannot read {path} ({type(e).__name__}: {first_line(e)}); export the bundle "
            "again with this version of torch"
        ) from e
    return program.module().to(device).requires_grad_(False)


def _refuse_pickles(path: Path) -> None:
    """Refuse an archive if torch.export.load would unpickle anything except plain tensors from it.

    torch 2.13 loads sample inputs, tensor subclasses and script objects with ``weights_only=False``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.namelist():
                if entry.endswith(".pt") and archive.getinfo(entry).file_size:  # empty: no sample inputs
                    torch.load(io.BytesIO(archive.read(entry)), weights_only=True)
                elif entry.endswith("_config.json") and _uses_pickle(json.loads(archive.read(entry))):
                    raise pickle.UnpicklingError(f"{entry} asks for pickle")
    except pickle.UnpicklingError as e:
        raise BadInputError(
            f"{path} contains pickled objects, which jboost never loads ({first_line(e)}); export it again"
        ) from e
    except (zipfile.BadZipFile, ValueError, RuntimeError, EOFError) as e:
        raise BadInputError(f"{path} is not a torch.export program ({first_line(e)}); export the bundle again") from e


def _uses_pickle(config: Any) -> bool:
    if isinstance(config, dict):
        return bool(config.get("use_pickle")) or any(_uses_pickle(v) for v in config.values())
    return isinstance(config, list) and any(_uses_pickle(v) for v in config)
