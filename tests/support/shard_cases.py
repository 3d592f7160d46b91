"""Sets in shards, and what a run over them leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import children
import format_cases
import numpy as np

COUNT = 5
MAKERS = {"npz": format_cases.npz, "tar": format_cases.shard, "parquet": format_cases.parquet}
#: PGD with early stopping, and SGLD, whose noise must not depend on the shard.
METHODS = {"pgd": ("--steps", 6), "sgld": ("--update", "sgld", "--steps", 3, "--noise", 0.02)}
ENGINE = ("--engine", "onnx", "--device", "cpu", "-b", 4)


def make_shards(folder: Path, kind: str, images: np.ndarray, labels: np.ndarray, count: int = COUNT) -> Path:
    """`count` files of a kind, ``00.tar`` and so on, of sizes that differ."""
    folder.mkdir(exist_ok=True)
    edges = np.linspace(0, len(images), count + 1).astype(int)
    for i in range(count):
        part = slice(edges[i], edges[i + 1])
        MAKERS[kind](folder, images[part], labels[part]).rename(folder / f"{i:02d}.{kind}")
    return folder


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of each file of a run but for ``run.json``, hidden files too."""
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "run.json"
    }


def stamps(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each finished shard."""
    found = {path.name: path.stat() for path in out.iterdir() if path.is_file() and not path.name.startswith(".")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}


class Ran(NamedTuple):
    code: int
    said: str


def jboost_in_child(folder: Path, *arguments: object, first: Callable[..., object] | None = None) -> Ran:
    """`children.jboost` in `folder`; `said` is what it printed to stdout and stderr."""
    ran = children.jboost(*arguments, cwd=folder, first=first)
    return Ran(ran.returncode, ran.stdout + ran.stderr)
