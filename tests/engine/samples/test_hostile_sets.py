"""Sets that someone made to do harm: names that lead elsewhere, headers that claim too much, labels that do not fit."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jboost.engine.errors import BadInputError, printable
from jboost.engine.samples import open_samples, write_samples
from jboost.engine.samples.encode import encode
from jboost.engine.system.names import check_names, path_inside
from jboost.trainer.data.generated import open_generated
from jboost.trainer.data.real import open_real

HOSTILE = {
    "parent": ["../out.png"],
    "parent inside": ["a/../../out.png"],
    "absolute": ["/tmp/out.png"],
    "drive": ["C:/out.png"],
    "drive alone": ["C:out.png"],
    "backslash": ["..\\out.png"],
    "escape sequence": ["a\x1b[31m.png"],
    "line break": ["a\nb.png"],
    "C1 control": ["a\x9b31m.png"],
    "empty part": ["a//b.png"],
    "current folder": ["./a.png"],
    "twice": ["a.png", "a.png"],
    "twice but for case": ["a.png", "A.PNG"],
    "twice but for folders' case": ["A/a.png", "a/A.png"],
    "twice but for spelling": ["\u00e9.png", "e\u0301.png"],
    "file and folder": ["a.png", "a.png/b.png"],
    "long": ["a" * 2000 + ".png"],
}


def zip_of(path: Path, members: dict[str, bytes] | list[tuple[str, bytes]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = zipfile.ZipInfo("x")
            info.filename = name  # ZipInfo's constructor changes some names
            archive.writestr(info, data)
    return path


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npy_claiming(shape: str, descr: str = "<i8", pad: int = 0) -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode() + b" " * pad + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", HOSTILE)
def test_a_png_zip_with_a_hostile_name_is_refused(tmp_path, images, case) -> None:
    path = zip_of(tmp_path / "a.zip", [("0.png", encode(images[0])), *((n, encode(images[1])) for n in HOSTILE[case])])
    for opened in (open_samples, lambda p: open_real(p, resolution=None, channels=None)):
        with pytest.raises(BadInputError) as e:
            opened(path)
        assert str(e.value) == printable(str(e.value))
        assert "write it again" in str(e.value)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", HOSTILE)
def test_an_npz_with_a_hostile_member_is_refused(tmp_path, images, labels, case) -> None:
    members = [("arr_0.npy", npy(images)), ("arr_1.npy", npy(labels))]
    path = zip_of(tmp_path / "a.npz", members + [(name, b"") for name in HOSTILE[case]])
    for opened in (
        open_samples,
        lambda p: open_real(p, resolution=None, channels=None),
        lambda p: open_generated([p], None, num_classes=5, resolution=None, channels=None),
    ):
        with pytest.raises(BadInputError, match="write it again"):
            opened(path)


@pytest.mark.parametrize("name", ["../out.png", "/tmp/out.png", "a/../../out.png", "..\\out.png"])
def test_no_file_is_written_outside_the_output_even_if_the_reader_lets_a_name_pass(tmp_path, images, name) -> None:
    source = open_samples(zip_of(tmp_path / "a.zip", {"0.png": encode(images[0]), "1.png": encode(images[1])}))
    source.names[1] = name
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInputError, match="outside the output"):
        write_samples(tmp_path / "sub", (2, *images.shape[1:]), iter([images[:2]]), source=source)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_link_in_the_output_is_not_followed(tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with pytest.raises(BadInputError):
        path_inside(tmp_path / "out", "link/a.png")
    assert path_inside(tmp_path / "out", "a/b.png") == tmp_path / "out" / "a" / "b.png"


def test_a_folder_with_a_hostile_name_is_refused(tmp_path, images) -> None:
    for name in ("a\x1b[31m.png", "a\\b.png", "a\nb.png"):
        root = tmp_path / "set"
        root.mkdir()
        (root / name).write_bytes(encode(images[0]))
        with pytest.raises(BadInputError, match="plain relative names") as e:
            open_samples(root)
        assert str(e.value) == printable(str(e.value))
        (root / name).unlink()
        root.rmdir()


def test_ordinary_names_pass() -> None:
    check_names(
        "a.zip", ["a/", "a/b.png", "a b/c [1].png", "\u00e9\u4e2d.png", "..a.png", "a..b.png", "dataset.json", "a.b/c"]
    )


def test_many_names_take_linear_time() -> None:
    check_names("a.zip", (f"{i % 1000}/{'d/' * 20}{i}.png" for i in range(50_000)))


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (np.full(23, 2**64 - 1, np.uint64), "int64 cannot hold"),
        (np.full(23, 2**63, np.uint64), "int64 cannot hold"),
        (np.linspace(0, 4, 23), "whole numbers"),
        (np.array(["a"] * 23), "whole numbers"),
        (np.ones(23, bool), "whole numbers"),
        (np.ones((23, 1), int), r"save arr_1\[:, 0\]"),
    ],
)
def test_labels_that_int64_cannot_hold_are_refused(tmp_path, images, given, remedy) -> None:
    np.savez(tmp_path / "a.npz", images, given)
    with pytest.raises(BadInputError, match=remedy):
        open_samples(tmp_path / "a.npz")


@pytest.mark.parametrize("dtype", ["u1", "<u8", ">u8", ">i4", "<i8"])
def test_labels_of_every_integer_dtype_keep_their_values(tmp_path, images, labels, dtype) -> None:
    np.savez(tmp_path / "a.npz", images, labels.astype(dtype))
    found = open_samples(tmp_path / "a.npz").labels
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, labels)


HEADERS = {
    "a trillion labels": (npy_claiming("(1000000000000,)"), "1000000000000 labels for 23"),
    "as many labels as images but no bytes": (npy_claiming("(23,)"), "make or copy the file again"),
    "wide labels": (npy_claiming("(23,)", "<U1000000000"), "readable"),
    "a size no machine has": (npy_claiming("(" + "9" * 4000 + ",)"), "out of range"),
    "a negative size": (npy_claiming("(-1,)"), "out of range"),
    "a long header": (npy_claiming("(23,)", pad=50_000_000), "npy header of 50,000,0"),
    "a nested header": (npy_claiming("(" * 4000 + ")" * 4000), "readable"),
    "a header of signs": (npy_claiming("(" + "-" * 9000 + "1,)"), "readable"),
    "a dtype that overflows": (npy_claiming("(1,)", "V9999999999999999999999"), "readable"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_a_header_that_claims_too_much_is_refused_before_it_takes_memory(tmp_path, images, case) -> None:
    member, remedy = HEADERS[case]
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", npy(images))
        archive.writestr("arr_1.npy", member)
    tracemalloc.start()
    with pytest.raises(BadInputError, match=remedy) as e:
        open_samples(tmp_path / "a.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000
    assert len(str(e.value)) < 500


def test_a_zip_directory_that_claims_a_trillion_labels_too_is_refused(tmp_path) -> None:
    """The images claim as much, so that only the missing bytes can tell."""
    count = 2**40
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, member, size in (
            ("arr_0.npy", npy_claiming(f"({count}, 1, 1, 1)", "|u1"), count),
            ("arr_1.npy", npy_claiming(f"({count},)", "|u1"), count),
        ):
            archive.writestr(name, member)
            info = archive.getinfo(name)
            info.file_size = info.compress_size = len(member) + size
    with pytest.raises(BadInputError, match="truncated"):
        open_samples(path)


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def test_a_png_that_claims_too_many_pixels_is_refused_with_the_limit(tmp_path) -> None:
    path = zip_of(tmp_path / "a.zip", {"0.png": png_claiming(60_000, 60_000)})
    (tmp_path / "set" / "1").mkdir(parents=True)
    (tmp_path / "set" / "1" / "0.png").write_bytes(png_claiming(60_000, 60_000))
    for opened in (lambda: open_samples(path), lambda: open_real(tmp_path / "set", resolution=8, channels=3)):
        with pytest.raises(BadInputError, match=r"0\.png is too large.*178,956,970 pixels.*resize"):
            opened()


def test_a_member_that_unpacks_to_gigabytes_is_refused_by_its_size(tmp_path, images) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", encode(images[0]))
        with archive.open("dataset.json", "w") as f:
            for _ in range(300):
                f.write(b" " * (1 << 20))
    with pytest.raises(BadInputError, match="leave it out of the set"):
        open_samples(path)


DATASETS = {
    "a huge class": ('{"labels": [["0.png", 99999999999999999999999]]}', "whole number"),
    "infinity": ('{"labels": [["0.png", 1e999]]}', "whole number"),
    "NaN": ('{"labels": [["0.png", NaN]]}', "NaN"),
    "a fraction": ('{"labels": [["0.png", 1.5]]}', "whole number"),
    "true": ('{"labels": [["0.png", true]]}', "whole number"),
    "negative": ('{"labels": [["0.png", -1]]}', "whole number"),
    "text": ('{"labels": [["0.png", "1"]]}', "whole number"),
    "three parts": ('{"labels": [["0.png", 1, 2]]}', "entries"),
    "no pair": ('{"labels": [7]}', "must be a list"),
    "an object": ('{"labels": {"0.png": 1}}', "must be a list"),
    "a list": ("[1]", "must be an object"),
    "another name": ('{"labels": [["1.png", 1]]}', "no label for 0.png"),
    "two labels": ('{"labels": [["0.png", 1], ["0.png", 2]]}', "two labels"),
    "nested": ("[" * 100_000, "nested too deep"),
    "not JSON": ("{", "not valid JSON"),
    "a colour": ('{"labels": [["\\u001b[31m", {}]]}', "whole number"),
}


@pytest.mark.parametrize("case", DATASETS)
def test_a_dataset_json_of_wrong_types_is_refused_in_one_line(tmp_path, images, case) -> None:
    text, remedy = DATASETS[case]
    path = zip_of(tmp_path / "a.zip", {"0.png": encode(images[0]), "dataset.json": text.encode()})
    with pytest.raises(BadInputError, match=remedy) as e:
        open_samples(path)
    assert "write it as" in str(e.value)
    assert len(str(e.value)) < 500


def test_class_folders_with_numbers_that_int64_cannot_hold_are_refused(tmp_path, images) -> None:
    for folder in (str(2**63), "9" * 200):
        path = zip_of(tmp_path / "a.zip", {f"{folder}/0.png": encode(images[0]), "1/0.png": encode(images[0])})
        with pytest.raises(BadInputError, match="not a class number"):
            open_samples(path)
        (tmp_path / "set" / folder).mkdir(parents=True)
        (tmp_path / "set" / "1").mkdir(exist_ok=True)
        for name in (folder, "1"):
            (tmp_path / "set" / name / "0.png").write_bytes(encode(images[0]))
        with pytest.raises(BadInputError, match="not a class number"):
            open_real(tmp_path / "set", resolution=None, channels=None)
        (tmp_path / "set" / folder / "0.png").unlink()
        (tmp_path / "set" / folder).rmdir()


def test_the_trainers_arrays_are_checked_against_their_bytes(tmp_path) -> None:
    path = zip_of(
        tmp_path / "a.npz",
        {"data.npy": npy_claiming("(1000000000000, 3072)", "|u1"), "labels.npy": npy(np.ones(3, int))},
    )
    with pytest.raises(BadInputError, match="header says"):
        open_real(path, resolution=None, channels=None)


def test_json_labels_survive_a_round_trip(tmp_path, images) -> None:
    pairs = [["0.png", 2], ["1.png", 2**62]]
    path = zip_of(
        tmp_path / "a.zip",
        {
            "0.png": encode(images[0]),
            "1.png": encode(images[1]),
            "dataset.json": json.dumps({"labels": pairs}).encode(),
        },
    )
    assert open_samples(path).labels.tolist() == [2, 2**62]
    with Image.open(io.BytesIO(open_samples(path).bytes_of("0.png"))) as image:
        assert image.size == (16, 16)
