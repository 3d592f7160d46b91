"""Image files made by hand, so that what is in them is known without any decoder."""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

_COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    values: np.ndarray, *, bits: int = 8, before: bytes = b"", after: bytes = b"", kind: int | None = None
) -> bytes:
    """A PNG of values [H, W, C], with chunks before and after its pixels; of `kind` 3, a palette stands in `before`."""
    h, w, c = values.shape
    if bits < 8:
        flat = [f"{v:0{bits}b}" for v in range(2**bits)]
        rows = ["".join(flat[v] for v in row.ravel()) for row in values]
        lines = [int(row.ljust(-(-len(row) // 8) * 8, "0"), 2).to_bytes(-(-len(row) // 8), "big") for row in rows]
    else:
        lines = [row.astype(">u2" if bits == 16 else "u1").tobytes() for row in values]
    header = struct.pack(">IIBBBBB", w, h, bits, _COLOUR_TYPES[c] if kind is None else kind, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + line for line in lines)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + pixels + after + chunk(b"IEND", b"")


def saved(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """What Pillow writes for an image."""
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def write_tree(root: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder, a zip or a tar, by the suffix of `root`."""
    if root.suffix == ".zip":
        with zipfile.ZipFile(root, "w") as archive:
            for name, data in files.items():
                info = zipfile.ZipInfo("x")
                info.filename = name  # ZipInfo's constructor changes some names
                archive.writestr(info, data)
    elif ".tar" in root.suffixes or root.suffix == ".tgz":
        with tarfile.open(root, "w" if root.suffix == ".tar" else "w:gz") as tar:
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    else:
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    return root
