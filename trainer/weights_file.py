"""Write a safetensors file atomically: a killed process leaves the old file or the new one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Replace `path`: written aside, forced to the disk, renamed.

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
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # Not save_file (safetensors 0.8): a kill leaves its own temporary file behind, and only the owner may read the result.
        with aside.open("wb") as file:
            file.write(save(copies, metadata=metadata))
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        if os.name == "posix":  # elsewhere folders cannot be opened
            _flush_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _flush_folder(path: Path) -> None:
    """Force a folder's entries to the disk: the new name, too, outlives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
