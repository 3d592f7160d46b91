"""Damaged, lying and hostile variants of a file, drawn by hypothesis."""

from __future__ import annotations

import io
import json
import re
import struct
import tarfile
import zipfile
from typing import Any

from hypothesis import strategies as st

_NUMBERS = (0, 1, 2, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
_NAMES = (
    "../x",
    "/tmp/x",
    "a\\b",
    "a\x1b[31m",
    " ",
    ".",
    "arr_0.npy",
    "ARR_0.npy",
    "x" * 300,
    "a/../b",
    "C:x",
    "é.png",
    "\u202e.png",
)
_TEXTS = (
    "|O", "<f8", ">u2", "<U9", "|V3", "<M8[s]", "(1000000000000,)", "(-1,)", "(3,)", "()", "(2, 3.5)", "(10, 4, 4, 3)", "None",
    "True", "1e999", "[[[[", "'x'", "{}",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1 << 70, float("nan"), float("inf"), "", "x", "../x", "\x1b[31mx", "x" * 5000, [], {}, [1, 2], [[[]]],
    {"a": 1}, ["x"] * 1000, list(range(5000)),
)  # fmt: skip

_place = st.floats(0, 1, exclude_max=True)
_damage = st.one_of(
    st.tuples(st.just("set"), _place, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just("flip"), _place, st.integers(0, 7)),
    st.tuples(st.just("cut"), _place, st.none()),
    st.tuples(st.just("insert"), _place, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("drop"), _place, st.integers(1, 64)),
    st.tuples(
        st.just("number"), _place, st.tuples(st.sampled_from("<>"), st.sampled_from("HIQ"), st.sampled_from(_NUMBERS))
    ),
)
#: A list of damages to bytes, for `damaged`.
damages = st.lists(_damage, min_size=1, max_size=4)


def damaged(content: bytes, changes: list[Any]) -> bytes:
    """`content` after the changes that `damages` draws."""
    data = bytearray(content)
    for what, place, how in changes:
        at = int(place * len(data))
        if what == "set":
            data[at : at + len(how)] = how
        elif what == "flip" and data:
            data[at] ^= 1 << how
        elif what == "cut":
            del data[at:]
        elif what == "insert":
            data[at:at] = how
        elif what == "drop":
            del data[at : at + how]
        elif what == "number":
            order, kind, number = how
            size = struct.calcsize(kind)
            data[at : at + size] = struct.pack(order + kind, number & ((1 << 8 * size) - 1))
    return bytes(data)


#: A change to one member of a zip archive, for `rezipped`; the archive's own sums stay right.
member_changes = st.tuples(
    st.integers(0, 100),
    st.one_of(
        st.tuples(st.just("bytes"), damages),
        st.tuples(st.just("name"), st.sampled_from(_NAMES)),
        st.tuples(st.just("twice"), st.sampled_from(("", "UPPER"))),
        st.tuples(st.just("gone"), st.none()),
        st.tuples(st.just("header"), st.tuples(st.integers(0, 20), st.sampled_from(_TEXTS))),
    ),
)


def rezipped(content: bytes, change: Any) -> bytes:
    """A zip archive after a change that `member_changes` draws."""
    number, (what, how) = change
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    at = number % len(members)
    name, data = members[at]
    if what == "bytes":
        members[at] = name, damaged(data, how)
    elif what == "name":
        members[at] = how, data
    elif what == "twice":
        members.append((name.upper() if how else name, data))
    elif what == "gone":
        del members[at]
    elif what == "header":
        members[at] = name, _other_header(data, *how)
    made = io.BytesIO()
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # of duplicate names
        for name, data in members:
            archive.writestr(name, data)
    return made.getvalue()


#: A change to one member of a tar, for `retarred`; the headers' own sums stay right.
tar_changes = st.tuples(
    st.integers(0, 100),
    st.one_of(
        st.tuples(st.just("bytes"), damages),
        st.tuples(st.just("name"), st.sampled_from((*_NAMES, "a.cls", "part0/006.jpg", "x.json", "__x__"))),
        st.tuples(st.just("twice"), st.none()),
        st.tuples(st.just("gone"), st.none()),
        st.tuples(st.just("type"), st.sampled_from("123456xgLKSD")),
        st.tuples(st.just("size"), st.sampled_from(_NUMBERS)),
    ),
)


def retarred(content: bytes, change: Any) -> bytes:
    """A tar after a change that `tar_changes` draws."""
    number, (what, how) = change
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [(info.name, archive.extractfile(info).read()) for info in archive]
    at = number % len(members)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for i, (name, data) in enumerate(members):
            if i == at and what == "gone":
                continue
            info = tarfile.TarInfo(how if i == at and what == "name" else name)
            data = damaged(data, how) if i == at and what == "bytes" else data
            info.size = len(data)
            if i == at and what == "type":
                info.type, info.linkname = how.encode(), members[0][0]
            if i == at and what == "size":
                # A header that claims another size than what follows.
                info.size = how
                made.write(info.tobuf(tarfile.GNU_FORMAT))
                archive.offset = made.tell()
                continue
            archive.addfile(info, io.BytesIO(data))
            if i == at and what == "twice":
                archive.addfile(info, io.BytesIO(data))
    return made.getvalue()


#: A change to one column of a parquet file, for `recolumned`.
column_changes = st.tuples(
    st.sampled_from(("image", "label", "prompt", "metadata")),
    st.one_of(
        st.tuples(st.just("values"), st.sampled_from(range(len(_VALUES)))),
        st.tuples(st.just("name"), st.sampled_from((*_NAMES, "label", "image", "labels"))),
        st.tuples(st.just("gone"), st.none()),
        st.tuples(st.just("bytes"), damages),
    ),
)


def recolumned(content: bytes, change: Any) -> bytes:
    """A parquet file after a change that `column_changes` draws."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    column, (what, how) = change
    table = pq.read_table(io.BytesIO(content))
    if column == "metadata":
        text = b"" if what == "gone" else damaged(table.schema.metadata[b"huggingface"], how if what == "bytes" else [])
        table = table.replace_schema_metadata({"huggingface": text})
    elif what == "gone":
        table = table.drop_columns(column)
    elif what == "name":
        table = table.rename_columns([how if name == column else name for name in table.column_names])
    else:
        cells = table[column].to_pylist()
        if what == "values":
            try:
                cells = pa.array([_VALUES[how]] * len(cells))
            except (pa.ArrowException, OverflowError, ValueError):  # it has no type in arrow
                return content
        elif column == "image":
            cells[2]["bytes"] = damaged(cells[2]["bytes"], how)
        table = table.set_column(table.column_names.index(column), column, pa.chunked_array([cells]))
    made = io.BytesIO()
    try:
        pq.write_table(table, made)
    except (pa.ArrowException, ValueError):
        return content
    return made.getvalue()


def _other_header(data: bytes, which: int, text: str) -> bytes:
    """An npy file with another value in its header, of the right length."""
    if not data.startswith(b"\x93NUMPY\x01"):
        return damaged(data, [("insert", 0.1, text.encode())])
    size = int.from_bytes(data[8:10], "little")
    header, rest = data[10 : 10 + size].decode("latin1"), data[10 + size :]
    values = list(re.finditer(r": ('[^']*'|\([^)]*\)|\w+)", header))
    chosen = values[which % len(values)]
    quoted = f"'{text}'" if chosen.group(1).startswith("'") else text
    header = header[: chosen.start(1)] + quoted + header[chosen.end(1) :]
    encoded = header.rstrip().encode() + b"\n"
    return data[:8] + len(encoded).to_bytes(2, "little") + encoded + rest


#: A change to one value of a JSON document, for `rewritten`.
json_changes = st.tuples(st.integers(0, 10_000), st.sampled_from(("value", "gone", "more")), st.sampled_from(_VALUES))


def rewritten(document: Any, change: Any) -> Any:
    """A JSON document after a change that `json_changes` draws; the document is not changed."""
    number, what, value = change
    document = json.loads(json.dumps(document))
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, child in items:
            places.append((node, key))
            visit(child)

    visit(document)
    node, key = places[number % len(places)]
    if what == "value":
        node[key] = value
    elif what == "gone":
        del node[key]
    elif isinstance(node, dict):
        node["more"] = value
    else:
        node.append(value)
    return document
