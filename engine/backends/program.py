"""Reading ``forward.pt2``: the forward pass as a torch.export program, which runs without the model's code.

A program is code of its own, and torch's reader runs more than its graph. So only trusted programs are read, and only after
`archive.rebuilt` has checked them and left out what no program of ours needs.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, first_line
from jboost.engine.system.memory import lacks_memory

from .archive import rebuilt


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

    Call it only for a program that the user trusts.

    Raises:
        BadInputError: `path` is not a torch.export program, or it contains what `rebuilt` does not know.
    """
    archive = rebuilt(path.read_bytes(), str(path))
    try:
        with warnings.catch_warnings():
            # torch 2.11 warns about a buffer that it reads itself; nothing writes to it.
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            program = torch.export.load(archive)
    except Exception as e:  # torch.export.load raises whatever its parser meets
        if lacks_memory(e):
            raise
        raise BadInputError(
            f"torch {torch.__version__} cannot read {path} ({type(e).__name__}: {first_line(e)}); export the bundle "
            "again with this version of torch"
        ) from e
    return program.module().to(device).requires_grad_(False)
