"""Write a safetensors file atomically: a killed process leaves the old file or the new one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from jboost.engine.system.replacing import replacing


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Replace `path` atomically.

    Args:
        path: the file to write or replace; its folder exists.
        tensors: by name, of any dtype, on any device, in any layout; memory may be shared.
        metadata: the file's metadata.

    Raises:
        OSError: writing failed; the old file is unchanged.
        SafetensorError: safetensors cannot store a tensor; the old file is unchanged.
    """
    # Copies: safetensors refuses memory that tensors share, and wants it dense.
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    with replacing(path) as aside:
        # Not save_file (safetensors 0.8): it renames a temporary of its own, which a kill leaves and only the owner may read.
        aside.write_bytes(save(copies, metadata=metadata))
