"""Hugging Face's parquet files: a column of images {bytes, path}, and perhaps one of labels; other columns are kept.

Columns are read in small batches, never whole but for the labels. pyarrow is imported when a parquet file is opened.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jboost.engine.errors import BadInputError, one_line, printable
from jboost.engine.system.typed import as_list, as_mapping, as_text, load_json

from .base import check_labels
from .encoded import decoded, measure
from .identity import file_contents
from .keys import NONE, chosen, some
from .naming import suffix_of
from .options import AS_IT_IS, ReadOptions

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_IMAGES, _LABELS = ("image", "images", "img"), ("label", "labels", "y")
METADATA = b"huggingface"
#: Rows that are read and written at a time; Hugging Face's files of images have row groups of 100 rows.
ROWS = 100
_READ_AHEAD = 1 << 20
_MAGIC = {b"\xff\xd8": ".jpg", b"\x89PNG": ".png", b"RIFF": ".webp", b"BM": ".bmp"}


class ParquetSamples:
    """A parquet file as a `SampleSet`.

    Attributes:
        names: a file name for each image: that of its path, or its number.
        column: the images' column.

    Raises:
        BadInputError: pyarrow is missing; the file is damaged; it leaves open which column holds the images or labels; an
            image is missing, unreadable or of another size; or a label is no class number.
    """

    kind = "parquet"

    def __init__(self, path: Path, options: ReadOptions = AS_IT_IS):
        self.path, self._options = path, options
        self._damage: tuple[type[BaseException], ...] = ()
        self._rows: tuple[int, Iterator[tuple[str, bytes]]] = (sys.maxsize, iter(()))  # next row, and the rows
        parquet, self._damage = import_pyarrow()
        try:
            self._file: pq.ParquetFile = parquet.ParquetFile(path, pre_buffer=False, buffer_size=_READ_AHEAD)
            self.schema: pa.Schema = self._file.schema_arrow
            if len(set(self.schema.names)) < len(self.schema.names):
                raise ValueError("two columns have one name")
            self._counts = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        except self._damage as e:
            raise BadInputError(f"{path} is not a readable parquet file ({one_line(e)}); make or copy it again") from e
        features = _features(path, self.schema.metadata)
        self.column = self._choose_images(features)
        count = sum(self._counts)
        names: list[str] = []

        def named() -> Iterator[tuple[str, bytes]]:
            for name, data in self._from(0):
                names.append(_file_name(name, data, len(names)))
                yield names[-1], data

        shape, self._decoding, notes = measure(path, named(), options)
        self.names, self.notes = names, notes
        self.shape: tuple[int, int, int, int] = (count, *shape)
        if len(names) != count:
            raise BadInputError(f"{path} holds {len(names):,} images in {count:,} rows; make or copy it again")
        self.labels, self.label_source, self.label_names = self._read_labels(features)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the file. It reads all of it, so it is made only when it is asked for."""
        return self._options.apply_to(file_contents(self.path))

    def read(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Images uint8 [len(indices), H, W, C] at `indices`; ascending ones are read in one pass."""
        order = np.argsort(indices, kind="stable")
        files = (self._at(int(indices[i])) for i in order)
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        out[order] = decoded(self.path, files, len(indices), self.shape[1:], self._decoding)
        return out

    def _at(self, index: int) -> tuple[str, bytes]:
        """Name and bytes of an image. The position is kept, because a run reads in ascending order."""
        at, rows = self._rows
        start = sum(self._counts[: self._group_of(index)])
        if index < at or start > at:
            at, rows = start, self._from(start)
        for found in rows:
            at += 1
            if at > index:
                self._rows = at, rows
                return self.names[index], found[1]
        raise BadInputError(f"{self.path} is damaged: it ends before row {index}; make or copy it again")

    def _group_of(self, index: int) -> int:
        return int(np.searchsorted(np.cumsum(self._counts), index, side="right"))

    def _from(self, start: int) -> Iterator[tuple[str, bytes]]:
        """Path and bytes of the images from row `start` on, the first of a row group."""
        groups = list(range(self._group_of(start) if start else 0, len(self._counts)))
        row = start
        for batch in self.batches([self.column], groups):
            values = batch.column(0)
            plain = not is_struct(values.type)
            data = values if plain else values.field("bytes")
            paths = None if plain or "path" not in _fields(values.type) else values.field("path")
            for i in range(len(values)):
                content = data[i].as_py() if values[i].is_valid else None
                path = "" if paths is None else paths[i].as_py() or ""
                if content is None:
                    raise BadInputError(
                        f"{self.path}: row {row} holds no image"
                        + (f", only the path {printable(path[:100])!r}" if path else "")
                        + "; put the file itself into the row: {'bytes': open(path, 'rb').read(), 'path': path}"
                    )
                yield path, content
                row += 1

    def batches(self, columns: list[str], groups: list[int] | None = None) -> Iterator[pa.RecordBatch]:
        """The columns in batches of at most `ROWS` rows.

        Raises:
            BadInputError: the file is damaged.
        """
        groups = list(range(len(self._counts))) if groups is None else groups
        try:
            if groups:
                yield from self._file.iter_batches(ROWS, row_groups=groups, columns=columns, use_threads=False)
        except self._damage as e:
            raise BadInputError(f"{self.path} is damaged ({one_line(e)}); make or copy it again") from e

    def _choose_images(self, features: dict[str, Any]) -> str:
        import pyarrow.types as types

        found = []
        for field in self.schema:
            binary = _is_binary(field.type)
            struct = is_struct(field.type) and "bytes" in _fields(field.type)
            if struct or (binary and (field.name in _IMAGES or _type_of(features, field.name) == "Image")):
                found.append(field.name)
        column = chosen(self.path, "images", self._options, found, self.schema.names)
        if column is None:
            raise BadInputError(
                f"{self.path} has no column of images (it has {some(self.schema.names)}); write one called image, of "
                "{'bytes': ..., 'path': ...}"
                + (", or name it with --images-key" if self._options.keys_are_flags else "")
            )
        kind = self.schema.field(column).type
        if not (
            _is_binary(kind) or (is_struct(kind) and "bytes" in _fields(kind) and _is_binary(kind.field("bytes").type))
        ):
            what = "lists of numbers" if types.is_nested(kind) else str(kind)
            raise BadInputError(
                f"{self.path}: the column {printable(column)} holds {what}, not image files; write {{'bytes': ..., 'path': ...}}"
            )
        return column

    def _read_labels(
        self, features: dict[str, Any]
    ) -> tuple[np.ndarray[Any, np.dtype[np.int64]] | None, str, tuple[str, ...] | None]:
        import pyarrow.types as types

        if self._options.labels_key == NONE:
            return None, "none: --labels-key none", None
        found = [
            field.name
            for field in self.schema
            if types.is_integer(field.type)
            and (field.name in _LABELS or _type_of(features, field.name) == "ClassLabel")
        ]
        column = chosen(self.path, "labels", self._options, found, self.schema.names)
        if column is None:
            return None, "none: no column of labels", None
        if not types.is_integer(self.schema.field(column).type):
            raise BadInputError(
                f"{self.path}: the column {printable(column)} is of {self.schema.field(column).type}; labels must be whole "
                "numbers from 0"
            )
        parts, missing, count = [], 0, 0
        for batch in self.batches([column]):
            values = batch.column(0)
            count += len(values)
            missing += values.null_count
            parts.append(values.drop_null().to_numpy(zero_copy_only=False))
        labels = np.concatenate(parts)
        # Hugging Face's mark of a test split whose classes are secret.
        missing += int((labels == -1).sum()) if labels.dtype.kind == "i" else 0
        if missing == count:
            return None, f"none: the column {column} is empty (null or -1)", None
        if missing:
            raise BadInputError(
                f"{self.path}: {missing:,} of {count:,} rows have no label (null or -1) in the column {printable(column)}; give "
                f"each one{self._options.or_no_labels}"
            )
        checked = check_labels(f"{self.path}: {printable(column)}", labels, count)
        names = _class_names(self.path, features, column)
        if names is not None and int(checked.max()) >= len(names):
            raise BadInputError(
                f"{self.path}: the column {printable(column)} holds {int(checked.max())}, but names {len(names)} classes only"
            )
        return checked, f"the column {column}", names


def import_pyarrow() -> tuple[Any, tuple[type[BaseException], ...]]:
    """``pyarrow.parquet``, and the exceptions that it raises for damaged files.

    Raises:
        BadInputError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as e:
        raise BadInputError('parquet files need pyarrow; install it with: pip install "jboost[images]"') from e
    return parquet, (pyarrow.ArrowException, OSError, ValueError, KeyError, EOFError, MemoryError, OverflowError)


def _features(path: Path, metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """Hugging Face's description of the columns, by name; empty if there is none."""
    if not metadata or METADATA not in metadata:
        return {}
    try:
        info = as_mapping(load_json(metadata[METADATA]), "it").get("info") or {}
        return as_mapping(as_mapping(info, "info").get("features") or {}, "features")
    except BadInputError as e:
        raise BadInputError(f"{path}: its Hugging Face metadata cannot be read ({e}); write the file again") from e


def _type_of(features: dict[str, Any], name: str) -> object:
    feature = features.get(name)
    return feature.get("_type") if isinstance(feature, dict) else None


def _class_names(path: Path, features: dict[str, Any], name: str) -> tuple[str, ...] | None:
    if _type_of(features, name) != "ClassLabel" or features[name].get("names") is None:
        return None
    try:
        return tuple(as_text(n, "a class name") for n in as_list(features[name]["names"], "names", most=10_000_000))
    except BadInputError as e:
        raise BadInputError(f"{path}: its Hugging Face metadata cannot be read ({e}); write the file again") from e


def is_struct(kind: Any) -> bool:
    """Whether a column's type is a struct."""
    import pyarrow.types as types

    return bool(types.is_struct(kind))


def _is_binary(kind: Any) -> bool:
    import pyarrow.types as types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _fields(kind: Any) -> list[str]:
    return [kind.field(i).name for i in range(kind.num_fields)]


def _file_name(path: str, data: bytes, index: int) -> str:
    """An image's file name: the last part of its path, else its number; the suffix is that of its format."""
    stem = Path(path.replace("\\", "/")).name
    suffix = next((suffix for magic, suffix in _MAGIC.items() if data.startswith(magic)), ".png")
    known = suffix_of(stem)
    if known == suffix or (known == ".jpeg" and suffix == ".jpg"):
        return stem
    return (stem[: -len(known)] if known else stem or f"{index:06d}") + suffix
