"""A sample set in every format, as other programs write it."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

Array = np.ndarray
CLASS_NAMES = ("zebra", "ant", "cat", "dog", "eel")  # not in sorted order


def image_bytes(image: Array, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    options = {"quality": 90} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def npz(folder: Path, images: Array, labels: Array) -> Path:
    np.savez(folder / "set.npz", images=images, labels=labels, prompts=np.array([f"p{i}" for i in range(len(images))]))
    return folder / "set.npz"


def npy(folder: Path, images: Array, labels: Array) -> Path:
    np.save(folder / "set.npy", images)
    return folder / "set.npy"


def tensors(folder: Path, images: Array, labels: Array) -> Path:
    planar = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    torch.save({"images": planar, "labels": torch.from_numpy(labels), "seed": 7}, folder / "set.pt")
    return folder / "set.pt"


def parquet(folder: Path, images: Array, labels: Array, kind: str = "PNG") -> Path:
    """As Hugging Face's `datasets` writes it: row groups, its metadata in the schema."""
    import pyarrow as pa  # here: it starts a thread when it is imported
    import pyarrow.parquet as pq

    suffix = {"PNG": "png", "JPEG": "jpg"}[kind]
    features = {"image": {"_type": "Image"}, "label": {"names": list(CLASS_NAMES), "_type": "ClassLabel"}}
    cells = [{"bytes": image_bytes(image, kind), "path": f"n{i % 3}_{i}.{suffix}"} for i, image in enumerate(images)]
    table = pa.table(
        {
            "prompt": [f"p{i}" for i in range(len(images))],
            "image": pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "label": pa.array(labels, pa.int64()),
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, folder / "set.parquet", row_group_size=5)
    return folder / "set.parquet"


def shard(folder: Path, images: Array, labels: Array, kind: str = "PNG") -> Path:
    """As the webdataset library writes it; keys are not in sorted order."""
    import webdataset

    suffix = {"PNG": "png", "JPEG": "jpg"}[kind]
    with webdataset.TarWriter(str(folder / "set.tar"), encoder=False) as sink:
        for i, image in enumerate(images):
            sink.write(
                {
                    "__key__": f"part{i % 2}/{len(images) - i:03d}",
                    "cls": str(labels[i]).encode(),
                    suffix: image_bytes(image, kind),
                    "json": json.dumps({"prompt": f"p{i}"}).encode(),
                }
            )
    return folder / "set.tar"


def zipped(folder: Path, images: Array, labels: Array, kind: str = "PNG") -> Path:
    suffix = {"PNG": "png", "JPEG": "jpg"}[kind]
    names = [f"{i:03d}.{suffix}" for i in range(len(images))]
    with zipfile.ZipFile(folder / "set.zip", "w") as archive:
        for name, image in zip(names, images, strict=True):
            archive.writestr(name, image_bytes(image, kind))
        pairs = [[name, int(label)] for name, label in zip(names, labels, strict=True)]
        archive.writestr("dataset.json", json.dumps({"labels": pairs}))
    return folder / "set.zip"


def unzipped(folder: Path, images: Array, labels: Array) -> Path:
    with zipfile.ZipFile(zipped(folder, images, labels)) as archive:
        archive.extractall(folder / "set")
    (folder / "set.zip").unlink()
    return folder / "set"


Maker = Callable[[Path, Array, Array], Path]
FORMATS: dict[str, Maker] = {
    "npz": npz, "npy": npy, "pt": tensors, "parquet": parquet, "webdataset": shard, "zip": zipped, "folder": unzipped,
}  # fmt: skip
OUTPUTS = ("out.npz", "out.pt", "out.parquet", "out.tar", "out.zip", "out")
