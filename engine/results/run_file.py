"""The run file: a finished run's settings and its record of each image. `jboost report` makes its page from it."""

from __future__ import annotations

import math
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from jboost.engine.errors import BadInputError, one_line
from jboost.engine.samples.files import cannot_write
from jboost.engine.samples.npz import DAMAGE, check_array_size, read_exactly, read_header
from jboost.engine.samples.options import AS_IT_IS, ReadOptions, parse_class_folders, parse_resize
from jboost.engine.system.commands import in_shell
from jboost.engine.system.names import check_names
from jboost.engine.system.replacing import replacing
from jboost.engine.system.typed import (
    as_bool,
    as_figure,
    as_int,
    as_list,
    as_mapping,
    as_text,
    check_keys,
    dump_json,
    load_json,
    or_none,
)

from .summary import MOST_NAMED, RECORD

_VERSION = 1
_FACTS = "run"
#: The read options that a run file keeps: those that the user gave.
_READING = ("images_key", "labels_key", "resize", "background", "class_folders")
_BACKENDS = ("numpy", "torch", "onnxruntime", "tensorrt", "tensorrt_rtx")
_MOST_BYTES = 1 << 30  # of an array: 250 million images
_MOST_SNAPSHOTS = 10_000
#: Entries of the summary that older files lack.
_LATER = {
    "engines_failed": {},
    "redone": 0,
    "lossy": None,
    "not_finite": 0,
    "not_finite_at": [],
    "unmoved": 0,
    "first_step": None,
    "straightness": None,
    "rounding": "nearest",
}
_COLUMNS = [name for name in RECORD.names or () if name != "done"]


@dataclass(frozen=True)
class RunFile:
    """The contents of a file that `write_run` wrote.

    Attributes:
        path: the file.
        records: structured [N] of `jboost.engine.results.summary.RECORD`, in the images' order.
        summary: `jboost.engine.results.summary.Summary.to_dict`; its ``snapshots`` name their files. A figure that is
            missing is NaN.
        samples, boosted: the input and the output, as the file names them: a stranger's may name anything.
        snapshots: by number of steps, ascending: the set after that many steps.
        class_names: the bundle's class names, or None.
        model: architecture and SHA-256 of the bundle's checkpoint.
        versions: versions of jboost and of the backends in use.
        reading: how the run read its input.
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
    reading: ReadOptions = AS_IT_IS


def write_run(
    path: Path,
    records: np.ndarray[Any, Any],
    summary: Mapping[str, Any],
    *,
    samples: Path,
    boosted: Path,
    class_names: Sequence[str] | None,
    model: Mapping[str, str],
    reading: ReadOptions = AS_IT_IS,
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
        "reading": reading_facts(reading),
    }
    write_records(path, records, facts)


def write_records(path: Path, records: np.ndarray[Any, Any], facts: Mapping[str, Any]) -> None:
    """Write records [N] of `RECORD` and facts as npz: an array for each field, JSON for the facts. No time goes into it.

    Raises:
        BadInputError: `path` cannot be written.
    """
    arrays: dict[str, Any] = {name: records[name] for name in _COLUMNS}
    try:
        with replacing(path) as aside, aside.open("wb") as f:
            np.savez(f, **arrays | {_FACTS: np.array(dump_json(facts))})
    except OSError as e:
        raise cannot_write(path, e) from e


def read_records(path: Path) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """The facts, which the caller checks, and the records of a file that `write_records` wrote.

    Raises:
        BadInputError: the file is missing or damaged; the message does not name it.
    """
    try:
        return _read_members(path)
    except (*DAMAGE, KeyError) as e:
        raise BadInputError(f"it lacks {e.args[0]}" if isinstance(e, KeyError) else one_line(e)) from e


def read_run(path: Path) -> RunFile:
    """Read a file that `write_run` wrote.

    Raises:
        BadInputError: the file does not exist, is damaged, is no run file, or comes from another version of jboost.
    """
    if not path.is_file():
        raise BadInputError(f"{path} does not exist; make it with: jboost boost samples.npz --run {in_shell(path)}")
    try:
        facts, records = _read_members(path)
        if facts.get("format") != "jboost run":
            raise BadInputError("it does not say so")
        if facts.get("version") != _VERSION:
            raise _OtherVersionError(
                f"{path} was written by another version of jboost (format {repr(facts.get('version'))[:20]}, this one reads "
                f"{_VERSION}); boost again with --run"
            )
        return _typed(path, facts, records)
    except _OtherVersionError as e:
        raise BadInputError(str(e)) from e
    except (*DAMAGE, BadInputError, KeyError) as e:
        why = f"it lacks {e.args[0]}" if isinstance(e, KeyError) else one_line(e)
        raise BadInputError(
            f"{path} is not a run file of jboost, or it is damaged ({why}); make one with: jboost boost samples.npz "
            f"--run {in_shell(path)}"
        ) from e


class _OtherVersionError(Exception):
    pass


def _read_members(path: Path) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """The facts, not checked yet, and the records [N]. Headers are checked before arrays take memory."""
    with zipfile.ZipFile(path) as archive:
        check_names("it", archive.namelist())
        facts = _array(archive, _FACTS)
        if facts.dtype.kind != "U" or facts.ndim:
            raise BadInputError("its facts are no text")
        columns = {name: _array(archive, name) for name in _COLUMNS}
    count = len(columns["steps"]) if columns["steps"].ndim else 0
    if not count:
        raise BadInputError("it has no records")
    records = np.zeros(count, RECORD)
    records["done"] = True
    for name, column in columns.items():
        if column.shape != (count,) or column.dtype != RECORD[name]:
            raise BadInputError(f"{name} is {column.dtype} {list(column.shape)}, not {RECORD[name]} [{count}]")
        records[name] = column
    if not np.isfinite(records["l2"]).all() or float(records["l2"].min()) < 0:
        raise BadInputError("an image's L2 distance is no number of at least 0")
    return as_mapping(load_json(str(facts), allow_nan=True), "it"), records


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as f:
        shape, fortran, dtype, offset = read_header(f)
        check_array_size(name, info.file_size, shape, dtype, offset)
        if dtype.hasobject or fortran or info.file_size > _MOST_BYTES:
            raise BadInputError(
                f"{name} holds Python objects, is in Fortran order, or has more than {_MOST_BYTES:,} bytes"
            )
        return np.frombuffer(read_exactly(f, info.file_size - offset), dtype).reshape(shape)


def _typed(path: Path, facts: dict[str, Any], records: np.ndarray[Any, Any]) -> RunFile:
    """The run file of `facts`, every value checked. Figures that are not finite become NaN: missing."""
    summary = as_mapping(facts["summary"], "summary", most=1000)
    snapshots = as_list(summary["snapshots"], "snapshots", most=_MOST_SNAPSHOTS)
    typed = typed_summary(summary)
    if typed["images"] != len(records):
        raise BadInputError(f"its summary is of {typed['images']:,} images, its records of {len(records):,}")
    if int(records["steps"].min()) < 0 or int(records["steps"].max()) > typed["steps"]:
        raise BadInputError("an image took more steps than the run has")
    measured = typed["accuracy_before"] is not None
    if measured != (typed["accuracy_after"] is not None):
        raise BadInputError("it has an accuracy either before or after")
    home = path.resolve().parent
    files: dict[int, Path] = {}
    typed["snapshots"] = []
    for value in snapshots:
        taken = as_mapping(value, "snapshots")
        step = as_int(taken["step"], "snapshots.step", most=typed["steps"])
        if files and step <= max(files):
            raise BadInputError("its snapshots are not in ascending order")
        files[step] = _place(home, taken["file"], "snapshots.file")
        accuracy = or_none(taken["accuracy"], lambda v: as_figure(v, "snapshots.accuracy"))
        typed["snapshots"].append(
            {
                "step": step,
                "file": taken["file"],
                "realness": _figure_or_null(taken["realness"], "snapshots.realness"),
                "accuracy": math.nan if measured and accuracy is None else accuracy,
            }
        )
    names = or_none(facts["class_names"], lambda v: as_list(v, "class_names", most=1_000_000))
    return RunFile(
        path,
        records,
        typed,
        samples=_place(home, facts["samples"], "samples"),
        boosted=_place(home, facts["boosted"], "boosted"),
        snapshots=files,
        class_names=None if names is None else [as_text(name, "class_names") for name in names],
        model=_texts(facts["model"], "model"),
        versions=_texts(facts["versions"], "versions"),
        reading=read_reading(facts.get("reading", {})),  # which older files lack
    )


def typed_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a `Summary.to_dict` but for its snapshots, every value checked.

    Raises:
        BadInputError: an entry is missing, or its value is of another kind.
    """
    typed = {key: _of_summary(key, value) for key, value in {**_LATER, **summary}.items() if key != "snapshots"}
    check_keys(typed, _KINDS, None)
    return typed


def reading_facts(reading: ReadOptions) -> dict[str, Any]:
    """The read options that a run file keeps."""
    return {key: getattr(reading, key) for key in _READING}


def read_reading(value: Any) -> ReadOptions:
    """The options that `reading_facts` gave.

    Raises:
        BadInputError: a value is of another kind.
    """
    found = dict.fromkeys(_READING) | as_mapping(value, "reading")
    check_keys(found, _READING)
    colour = or_none(found["background"], lambda v: as_list(v, "reading.background", most=3))
    background = None
    if colour is not None:
        if len(colour) != 3:
            raise BadInputError("reading.background is no colour")
        red, green, blue = (as_int(level, "reading.background", most=255) for level in colour)
        background = red, green, blue
    return ReadOptions(
        images_key=or_none(found["images_key"], lambda v: as_text(v, "reading.images_key")),
        labels_key=or_none(found["labels_key"], lambda v: as_text(v, "reading.labels_key")),
        resize=parse_resize(or_none(found["resize"], lambda v: as_int(v, "reading.resize"))),
        background=background,
        class_folders=parse_class_folders(
            or_none(found["class_folders"], lambda v: as_text(v, "reading.class_folders"))
        ),
    )


def _of_summary(key: str, value: Any) -> Any:
    kind = _KINDS.get(key)
    if kind is None:  # a value of an update
        if value is None or isinstance(value, bool):
            return value
        return (
            as_text(value, key)
            if isinstance(value, str)
            else value
            if isinstance(value, int)
            else as_figure(value, key)
        )
    read, may_be_none = kind
    if value is None and may_be_none:
        return None
    return read(value, key)


def _count(value: Any, name: str) -> int:
    return as_int(value, name, most=2**53)


def _figure_or_null(value: Any, name: str) -> float:
    return math.nan if value is None else as_figure(value, name)


def _positions(value: Any, name: str) -> list[int]:
    return [_count(position, name) for position in as_list(value, name, most=MOST_NAMED)]


def _texts(value: Any, name: str) -> dict[str, str]:
    return {key: as_text(text, name) for key, text in as_mapping(value, name, most=1000).items()}


def _steps(value: Any, name: str) -> int:
    return as_int(value, name, most=2**31 - 1)


def _seed(value: Any, name: str) -> int:
    return as_int(value, name, least=-(2**63), most=2**64)


#: For each entry of the summary, how to read it, and whether it may be null.
_KINDS: dict[str, tuple[Callable[[Any, str], Any], bool]] = {
    **dict.fromkeys(
        (
            "images",
            "stopped_early",
            "batch_size",
            "fallbacks",
            "redone",
            "unchanged_after_failure",
            "not_finite",
            "unmoved",
        ),
        (_count, False),
    ),
    **dict.fromkeys(("engine", "dtype", "device", "update", "objective", "labels", "rounding"), (as_text, False)),
    **dict.fromkeys(
        ("steps_used", "seconds", "images_per_second", "l2_moved", "step_size"),
        (as_figure, False),
    ),
    "lossy": (as_text, True),
    **dict.fromkeys(("realness_before", "realness_after"), (_figure_or_null, False)),
    "not_finite_at": (_positions, False),
    "engines_failed": (_texts, False),
    **dict.fromkeys(
        ("accuracy_before", "accuracy_after", "eps", "noise", "l0", "first_step", "straightness"), (as_figure, True)
    ),
    "steps": (_steps, False),
    "seed": (_seed, False),
    "early_stop": (as_bool, False),
    "norm": (as_text, True),
    "peak_memory": (_count, True),
}


def _place(home: Path, value: Any, name: str) -> Path:
    text = as_text(value, name)
    if "\0" in text:
        raise BadInputError(f"{name} is no path")
    return home / text


def _versions() -> dict[str, str]:
    """Versions of jboost and of the imported backends."""
    loaded = {name: sys.modules[name] for name in _BACKENDS if name in sys.modules}
    return {"jboost": version("jboost")} | {name: str(module.__version__) for name, module in loaded.items()}
