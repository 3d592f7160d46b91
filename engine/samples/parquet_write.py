"""Writing parquet files as Hugging Face's `datasets` reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from .encode import encode, singly
from .naming import suffix_of
from .parquet import METADATA, ROWS, ParquetSamples, import_pyarrow, is_struct


def write_parquet(
    out: Any,
    batches: Iterator[np.ndarray[Any, Any]],
    names: list[str],
    *,
    labels: np.ndarray[Any, Any] | None = None,
    source: ParquetSamples | None = None,
) -> None:
    """Write a parquet file as Hugging Face's `datasets` reads it.

    Args:
        out: binary file, open for writing.
        batches: uint8 [n, H, W, C].
        names: the images' file names in the output.
        labels: int64 [N] for the column ``label``; unused if `source` is given.
        source: a parquet file whose other columns, rows' order and metadata the output takes over.
    """
    import pyarrow as pa

    parquet, _ = import_pyarrow()
    images = singly(batches)
    schema = _own_schema(labels is not None) if source is None else source.schema
    column = "image" if source is None else source.column
    at = 0
    with parquet.ParquetWriter(out, schema) as writer:
        while at < len(names):
            for rows in [None] if source is None else source.batches(list(schema.names)):
                count = min(ROWS, len(names) - at) if rows is None else len(rows)
                here = names[at : at + count]
                files = [encode(next(images), suffix_of(name)) for name in here]
                old = None if rows is None else rows.column(column)
                cells = _cells(schema.field(column).type, files, here, old)
                made = {column: cells}
                if rows is None and labels is not None:
                    made["label"] = pa.array(labels[at : at + count], pa.int64())
                arrays = [made[n] if n in made else rows.column(n) for n in schema.names]  # type: ignore[union-attr]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=ROWS)
                at += count


def _cells(kind: Any, files: list[bytes], names: list[str], old: Any) -> Any:
    """The images' column: new bytes, and paths whose suffix fits them."""
    import pyarrow as pa

    if not is_struct(kind):
        return pa.array(files, kind)
    made = {"bytes": files, "path": names}
    children = []
    for i in range(kind.num_fields):
        field = kind.field(i)
        if field.name == "path" and old is not None:
            paths = [path.as_py() for path in old.field("path")]
            made["path"] = [_with_suffix(path, name) for path, name in zip(paths, names, strict=True)]
        children.append(pa.array(made[field.name], field.type) if field.name in made else old.field(field.name))
    return pa.StructArray.from_arrays(children, fields=[kind.field(i) for i in range(kind.num_fields)])


def _with_suffix(path: str | None, name: str) -> str | None:
    """A path in the source, with the suffix of the name that the image is written under."""
    old = suffix_of(path) if path else ""
    if not path or not old or old == suffix_of(name):
        return path
    return path[: -len(old)] + suffix_of(name)


def _own_schema(labelled: bool) -> Any:
    import pyarrow as pa

    columns = [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    features: dict[str, Any] = {"image": {"_type": "Image"}}
    if labelled:
        columns.append(("label", pa.int64()))
        features["label"] = {"dtype": "int64", "_type": "Value"}
    return pa.schema(columns, {METADATA.decode(): json.dumps({"info": {"features": features}})})
