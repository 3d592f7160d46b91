"""The run file: a finished run's settings and its record of each image. `jboost report` makes its page from it."""

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
    """The contents of a file that `write_run` wrote.

    Attributes:
        path: the file.
        records: structured [N] of `jboost.engine.results.summary.RECORD`, in the images' order.
        summary: `jboost.engine.results.summary.Summary.to_dict`; its ``snapshots`` name their files.
        samples, boosted: the input and the output.
        snapshots: by number of steps, ascending: the set after that many steps.
        class_names: the bundle's class names, or None.
        model: architecture and SHA-256 of the bundle's checkpoint.
        versions: versions of jboost and of the backends in use.
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
    """Write a run as npz: an array [N] for each field of `records`, JSON for the rest. Paths are relative to the file.

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
    """Read a file that `write_run` wrote.

    Raises:
        BadInputError: the file does not exist, is damaged, is no run file, or comes from another version of jboost.
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
                f"{path} was written by another version of jboost (format {facts['version']}, this one reads "
                f"{_VERSION}); boost again with --run"
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
            f"{path} is not a run file of jboost, or it is damaged; make one with: jboost boost samples.npz "
            f"--run {path}"
        ) from e


def _versions() -> dict[str, str]:
    """Versions of jboost and of the imported backends."""
    loaded = {name: sys.modules[name] for name in _BACKENDS if name in sys.modules}
    return {"jboost": version("jboost")} | {name: str(module.__version__) for name, module in loaded.items()}
