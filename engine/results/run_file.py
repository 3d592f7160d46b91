"""A finished run as a file: what happened to each image, and what was asked for. `jboost report` draws its page from it."""

from __future__ import annotations

import json
import os
import sys
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError
from jboost.engine.samples.files import cannot_write
from jboost.engine.system.replacing import replacing

from .summary import RECORD

_VERSION = 1
_FACTS = "run"
_BACKENDS = ("numpy", "torch", "onnxruntime", "tensorrt", "tensorrt_rtx")
_COLUMNS = [name for name in RECORD.names or () if name != "done"]


@dataclass(frozen=True)
class RunFile:
    """What `write_run` kept.

    Attributes:
        path: the file.
        records: structured [N] of `jboost.engine.results.summary.RECORD`, in the images' order.
        summary: `jboost.engine.results.summary.Summary.to_dict`; its ``snapshots`` name their files.
        samples, boosted: the input and the output.
        snapshots: by number of steps, ascending, the set as so many steps would have left it.
        class_names: of the bundle, or None.
        model: architecture and SHA-256 of the bundle's checkpoint.
        versions: of the packages that took part.
    """

    path: Path
    records: np.ndarray[Any, Any]
    summary: dict[str, Any]
    samples: Path
    boosted: Path
    snapshots: dict[int, Path]
    class_names: list[str] | None
    model: dict[str, str]
    versions: dict[str, str]


def write_run(
    path: Path,
    records: np.ndarray[Any, Any],
    summary: Mapping[str, Any],
    *,
    samples: Path,
    boosted: Path,
    class_names: Sequence[str] | None,
    model: Mapping[str, str],
) -> None:
    """Keep a run as npz: an array [N] for each field of `records`, and JSON for the rest. Paths are kept relative to the file.

    Raises:
        BadInputError: `path` cannot be written.
    """

    def relative(other: str | Path) -> str:
        try:
            return os.path.relpath(Path(other).resolve(), path.resolve().parent)
        except ValueError:  # another drive, on Windows
            return str(Path(other).resolve())

    facts = {
        "format": "jboost run",
        "version": _VERSION,
        "samples": relative(samples),
        "boosted": relative(boosted),
        "summary": {
            **summary,
            "snapshots": [{**taken, "file": relative(taken["file"])} for taken in summary["snapshots"]],
        },
        "class_names": None if class_names is None else list(class_names),
        "model": dict(model),
        "versions": _versions(),
    }
    arrays: dict[str, Any] = {name: records[name] for name in _COLUMNS}
    try:
        with replacing(path) as aside, aside.open("wb") as f:
            np.savez(f, **arrays | {_FACTS: np.array(json.dumps(facts))})
    except OSError as e:
        raise cannot_write(path, e) from e


def read_run(path: Path) -> RunFile:
    """Open what `write_run` wrote.

    Raises:
        BadInputError: there is none, or it is something else.
    """
    if not path.is_file():
        raise BadInputError(f"{path} does not exist; make it with: jboost boost samples.npz --run {path}")
    try:
        with np.load(path, allow_pickle=False) as archive:
            facts = json.loads(str(archive[_FACTS]))
            columns = {name: archive[name] for name in _COLUMNS}
        count = len(columns["steps"])
        records = np.zeros(count, RECORD)
        records["done"] = True
        for name, column in columns.items():
            records[name] = column
        if facts["format"] != "jboost run" or not count:
            raise ValueError
        if facts["version"] != _VERSION:
            raise BadInputError(
                f"{path} was written by another version of jboost (format {facts['version']}, this one reads {_VERSION}); boost "
                "again with --run"
            )
        home = path.resolve().parent
        return RunFile(
            path,
            records,
            facts["summary"],
            samples=home / facts["samples"],
            boosted=home / facts["boosted"],
            snapshots={taken["step"]: home / taken["file"] for taken in facts["summary"]["snapshots"]},
            class_names=facts["class_names"],
            model=facts["model"],
            versions=facts["versions"],
        )
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise BadInputError(
            f"{path} is not a run that jboost kept, or it is damaged; make one with: jboost boost samples.npz --run {path}"
        ) from e


def _versions() -> dict[str, str]:
    """Of jboost, and of those backends that have been imported."""
    loaded = {name: sys.modules[name] for name in _BACKENDS if name in sys.modules}
    return {"jboost": version("jboost")} | {name: str(module.__version__) for name, module in loaded.items()}
