"""Every format is read as the program that wrote it means it, and every output is read by the programs that it is for."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from format_cases import CLASS_NAMES, FORMATS, OUTPUTS, image_bytes, parquet, shard, tensors, zipped
from PIL import Image

from jboost.engine.errors import BadInputError
from jboost.engine.samples import (
    ReadOptions,
    check_output,
    default_output,
    labels_of,
    open_samples,
    snapshot_output,
    write_samples,
)
from jboost.engine.samples.outputs import written_as
from jboost.export.l0 import mean_realness
from jboost.trainer.data.generated import open_generated
from jboost.trainer.data.real import open_real


def everything(samples) -> np.ndarray:
    return samples.read(np.arange(samples.shape[0]))


def rewrite(samples, out: Path, **options) -> None:
    write_samples(
        out,
        samples.shape,
        iter(np.array_split(everything(samples), 3)),
        labels=samples.labels,
        source=samples,
        **options,
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_a_set_has_its_pixels_labels_and_source(tmp_path, images, labels, kind) -> None:
    samples = open_samples(FORMATS[kind](tmp_path, images, labels))
    assert samples.kind == kind
    np.testing.assert_array_equal(everything(samples), images)
    np.testing.assert_array_equal(samples.read(np.array([0, 3, 4, 5, 22])), images[[0, 3, 4, 5, 22]])
    np.testing.assert_array_equal(samples.read(np.array([1])), images[[1]])
    if kind == "npy":
        assert samples.labels is None
        assert samples.label_source.startswith("none: ")
    else:
        assert samples.labels.dtype == np.int64
        assert samples.labels.tolist() == labels.tolist()
        assert not samples.label_source.startswith("none")


@pytest.mark.parametrize("kind", FORMATS)
def test_no_step_in_the_same_format_changes_nothing_and_writes_the_same_bytes_each_time(
    tmp_path, images, labels, kind
) -> None:
    samples = open_samples(FORMATS[kind](tmp_path, images, labels))
    out = default_output(samples)
    other = snapshot_output(out, 5)
    rewrite(samples, out)
    rewrite(samples, other)
    again = open_samples(out)
    assert again.kind == kind
    np.testing.assert_array_equal(everything(again), images)
    assert (again.labels is None) == (samples.labels is None)
    if samples.labels is not None:
        assert again.labels.tolist() == labels.tolist()
    assert again.label_names == samples.label_names
    assert getattr(again, "names", None) == getattr(samples, "names", None)
    if out.is_file():
        assert out.read_bytes() == other.read_bytes()
        assert out.suffix == other.suffix == samples.path.suffix


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_another_format_keeps_pixels_order_and_labels(tmp_path, images, labels, kind, output) -> None:
    samples = open_samples(FORMATS[kind](tmp_path, images, labels))
    rewrite(samples, tmp_path / output)
    again = open_samples(tmp_path / output)
    np.testing.assert_array_equal(everything(again), images)
    if samples.labels is not None:
        assert again.labels.tolist() == labels.tolist()


def test_names_are_kept_where_the_output_has_names(tmp_path, images, labels) -> None:
    samples = open_samples(shard(tmp_path, images, labels))
    rewrite(samples, tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["image"][0].as_py()["path"] == "part0/023.png"
    zipped_set = open_samples(zipped(tmp_path, images, labels))
    rewrite(zipped_set, tmp_path / "out.tar")
    with tarfile.open(tmp_path / "out.tar") as archive:
        assert archive.getnames()[:2] == ["000.png", "001.png"]


def test_parquet_keeps_columns_types_and_metadata(tmp_path, images, labels) -> None:
    samples = open_samples(parquet(tmp_path, images, labels))
    assert samples.label_names == CLASS_NAMES
    rewrite(samples, tmp_path / "out.parquet")
    old, new = pq.read_table(tmp_path / "set.parquet"), pq.read_table(tmp_path / "out.parquet")
    assert new.schema.equals(old.schema, check_metadata=True)
    assert new.drop_columns("image").equals(old.drop_columns("image"))
    assert [cell["path"] for cell in new["image"].to_pylist()] == [cell["path"] for cell in old["image"].to_pylist()]


def test_a_shard_is_what_the_webdataset_library_reads(tmp_path, images, labels) -> None:
    rewrite(open_samples(shard(tmp_path, images, labels)), tmp_path / "out.tar")
    rewrite(open_samples(FORMATS["npz"](tmp_path, images, labels)), tmp_path / "new.tar")
    old, new, made = (
        list(webdataset.WebDataset(str(tmp_path / name), shardshuffle=False))
        for name in ("set.tar", "out.tar", "new.tar")
    )
    for i, (a, b, c) in enumerate(zip(old, new, made, strict=True)):
        assert (a["__key__"], a["cls"], a["json"]) == (b["__key__"], b["cls"], b["json"])
        assert c["__key__"] == f"{i:06d}"
        assert int(c["cls"]) == labels[i]
        for sample in (b, c):
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sample["png"]))), images[i])


def test_a_parquet_of_ours_says_to_hugging_face_what_its_columns_are(tmp_path, images, labels) -> None:
    rewrite(open_samples(FORMATS["npz"](tmp_path, images, labels)), tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"image": {"_type": "Image"}, "label": {"dtype": "int64", "_type": "Value"}}
    cell = table["image"][7].as_py()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(cell["bytes"]))), images[7])
    assert cell["path"] == "000007.png"


def test_a_tensor_file_keeps_its_layout_and_its_other_contents(tmp_path, images, labels) -> None:
    samples = open_samples(tensors(tmp_path, images, labels))
    assert "[N, C, H, W]" in samples.notes[0]
    rewrite(samples, tmp_path / "out.pt")
    new = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(new) == ["images", "labels", "seed"]
    assert new["seed"] == 7
    np.testing.assert_array_equal(new["images"].permute(0, 2, 3, 1).numpy(), images)


@pytest.mark.parametrize("case", ["tensor", "pair", "list", "last"])
def test_the_usual_layouts_of_tensor_files(tmp_path, images, labels, case) -> None:
    x, y = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int32))
    content = {"tensor": x, "pair": (x, y), "list": [x, y], "last": {"x": x, "y": y}}[case]
    torch.save(content, tmp_path / "a.pth")
    samples = open_samples(tmp_path / "a.pth")
    np.testing.assert_array_equal(everything(samples), images)
    rewrite(samples, tmp_path / "b.pth")
    again = torch.load(tmp_path / "b.pth", weights_only=True)
    assert type(again) is type(content)
    if case != "tensor":
        assert samples.labels.tolist() == labels.tolist()
        assert open_samples(tmp_path / "b.pth").labels.tolist() == labels.tolist()


TENSORS = {
    "floats": lambda x, y: ({"images": torch.from_numpy(x / 255).float()}, "images"),
    "planar floats in [-1, 1]": lambda x, y: (
        {"images": torch.from_numpy(x / 127.5 - 1).permute(0, 3, 1, 2)},
        "images",
    ),
    "bfloat16": lambda x, y: ({"images": torch.from_numpy((x >= 128) * 1.0).bfloat16()}, "images"),
    "[N, 1] labels": lambda x, y: ({"images": torch.from_numpy(x), "labels": torch.from_numpy(y)[:, None]}, "labels"),
    "one-hot labels": lambda x, y: (
        {"images": torch.from_numpy(x), "labels": torch.eye(5)[torch.from_numpy(y)]},
        "labels",
    ),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_saved_as_the_message_says_are_right(tmp_path, images, labels, case) -> None:
    content, key = TENSORS[case](images, labels)
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(BadInputError, match=r"save torch\.as_tensor\(v\) with v = ") as e:
        open_samples(tmp_path / "a.pt")
    v = eval(str(e.value).rpartition("with v = ")[2], {"np": np, **content})
    torch.save({"images": torch.from_numpy(images)} | {key: torch.as_tensor(v)}, tmp_path / "a.pt")
    samples = open_samples(tmp_path / "a.pt")
    right = (images >= 128) * np.uint8(255) if case == "bfloat16" else images
    np.testing.assert_array_equal(everything(samples), right)
    if key == "labels":
        assert samples.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("make", [parquet, shard, zipped])
@pytest.mark.parametrize("lossy", [False, True])
def test_jpegs_become_pngs_unless_lossy(tmp_path, images, labels, make, lossy) -> None:
    samples = open_samples(make(tmp_path, images, labels, "JPEG"))
    out = default_output(samples)
    rewrite(samples, out, lossy=lossy)
    said = written_as(
        out, {"parquet": "parquet", "webdataset": "tar", "zip": "zip"}[samples.kind], samples, lossy=lossy
    )
    again = open_samples(out)
    assert again.labels.tolist() == labels.tolist()
    if lossy:
        assert again.names == samples.names
        assert "JPEG, quality 95" in said
        assert 0 < np.abs(everything(again).astype(int) - everything(samples)).mean() < 3
    else:
        assert again.names == [name.replace(".jpg", ".png") for name in samples.names]
        assert "as PNG in place of .jpg" in said
        np.testing.assert_array_equal(everything(again), everything(samples))


def test_an_output_that_would_lose_something_is_refused(tmp_path, images, labels) -> None:
    samples = open_samples(FORMATS["npz"](tmp_path, images, labels))
    with pytest.raises(BadInputError, match=r"no room for the labels.*--labels-key none"):
        check_output(tmp_path / "out.npy", samples, bytes_needed=1)
    with pytest.raises(BadInputError, match="--lossy"):
        check_output(tmp_path / "out.zip", samples, bytes_needed=1, lossy=True)
    check_output(tmp_path / "out.npy", open_samples(samples.path, ReadOptions(labels_key="none")), bytes_needed=1)


def test_a_tar_without_companions_is_an_archive_of_images(tmp_path, images) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for i in (1, 0):
            data = image_bytes(images[i])
            info = tarfile.TarInfo(f"./{i}.png")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    samples = open_samples(tmp_path / "a.tar")
    assert (samples.kind, samples.names) == ("tar", ["0.png", "1.png"])


def tar_of(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_labels_of_a_shard_in_json_or_in_folders_or_by_a_key(tmp_path, images) -> None:
    a, b = image_bytes(images[0]), image_bytes(images[1])
    path = tar_of(
        tmp_path / "a.tar",
        [("a.jpg", a), ("a.json", b'{"label": 4, "top": 1}'), ("b.jpg", b), ("b.json", b'{"label": 0, "top": 2}')],
    )
    assert open_samples(path).labels.tolist() == [4, 0]
    assert open_samples(path, ReadOptions(labels_key="top")).labels.tolist() == [1, 2]
    assert open_samples(path, ReadOptions(labels_key="none")).labels is None
    path = tar_of(tmp_path / "b.tar", [("3/a.png", a), ("3/a.txt", b"x"), ("1/b.png", b), ("1/b.txt", b"y")])
    assert open_samples(path).labels.tolist() == [3, 1]


SHARDS = {
    "no label": ([("a.png", 0), ("a.cls", b"1"), ("b.png", 1)], "1 of 2 samples have no label.*--labels-key none"),
    "a name for a class": ([("a.png", 0), ("a.cls", b"cat")], "'cat', which is no class number.*--labels-key none"),
    "two images": ([("a.png", 0), ("a.jpg", 1), ("a.cls", b"1")], "--images-key png"),
    "files apart": (
        [("a.png", 0), ("b.png", 1), ("a.cls", b"1"), ("b.cls", b"1")],
        "do not stand together.*--sort=name",
    ),
    "a fraction in json": ([("a.png", 0), ("a.json", b'{"label": 1.5}')], "whole number"),
    "an image that is none": ([("a.png", b"no"), ("a.cls", b"1")], "not a readable image"),
    "other sizes": ([("a.png", 0), ("b.png", 2), ("b.txt", b"")], "--resize N"),
}


@pytest.mark.parametrize("case", SHARDS)
def test_a_bad_shard_is_refused_in_one_line(tmp_path, images, case) -> None:
    members, says = SHARDS[case]
    pictures = [image_bytes(images[0]), image_bytes(images[1]), image_bytes(images[1][:8])]
    path = tar_of(tmp_path / "a.tar", [(name, d if isinstance(d, bytes) else pictures[d]) for name, d in members])
    with pytest.raises(BadInputError, match=says) as e:
        open_samples(path)
    assert "\n" not in str(e.value)


def test_other_images_of_a_shard_are_counted_aloud(tmp_path, images) -> None:
    a = image_bytes(images[0])
    path = tar_of(tmp_path / "a.tar", [("a.png", a), ("a.mask.png", a), ("a.cls", b"1"), ("b.cls", b"2")])
    samples = open_samples(path)
    assert samples.shape[0] == 1
    assert any("1 other images" in note and "a.mask.png" in note for note in samples.notes)
    assert any("1 samples without an image" in note for note in samples.notes)


def test_a_tar_behind_a_tar_and_a_cut_one_are_refused(tmp_path, images, labels) -> None:
    whole = shard(tmp_path, images, labels).read_bytes()
    (tmp_path / "two.tar").write_bytes(whole + whole)
    with pytest.raises(BadInputError, match="behind its end"):
        open_samples(tmp_path / "two.tar")
    for keep in (100, 512, 5000, len(whole) // 2, len(whole) // 1024 * 512):
        (tmp_path / "cut.tar").write_bytes(whole[:keep])
        with pytest.raises(BadInputError):
            open_samples(tmp_path / "cut.tar")


def write_rows(path: Path, columns: dict, features: dict | None = None) -> Path:
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def test_columns_by_other_names_and_types(tmp_path, images, labels) -> None:
    files = [image_bytes(image) for image in images]
    plain = write_rows(
        tmp_path / "a.parquet", {"img": pa.array(files, pa.large_binary()), "y": pa.array(labels, pa.int8())}
    )
    samples = open_samples(plain)
    np.testing.assert_array_equal(everything(samples), images)
    assert samples.labels.tolist() == labels.tolist()
    rewrite(samples, tmp_path / "b.parquet")
    assert pq.read_schema(tmp_path / "b.parquet").equals(pq.read_schema(plain))
    np.testing.assert_array_equal(everything(open_samples(tmp_path / "b.parquet")), images)
    cells = [{"bytes": data, "path": None} for data in files]
    both = write_rows(
        tmp_path / "c.parquet", {"front": cells, "back": cells[::-1], "label": labels, "labels": labels[::-1]}
    )
    with pytest.raises(BadInputError, match=r"images \(front, back\); choose with --images-key front"):
        open_samples(both)
    with pytest.raises(BadInputError, match=r"labels \(label, labels\); choose with --labels-key label"):
        open_samples(both, ReadOptions(images_key="back"))
    samples = open_samples(both, ReadOptions(images_key="back", labels_key="labels"))
    np.testing.assert_array_equal(everything(samples), images[::-1])
    assert samples.labels.tolist() == labels[::-1].tolist()


def test_a_split_without_labels_has_none_and_says_so(tmp_path, images) -> None:
    files = [image_bytes(image) for image in images]
    for secret in (pa.array([-1] * 23), pa.array([None] * 23, pa.int64())):
        samples = open_samples(write_rows(tmp_path / "a.parquet", {"image": files, "label": secret}))
        assert samples.labels is None
        assert "label is empty" in samples.label_source
    some = write_rows(tmp_path / "a.parquet", {"image": files, "label": [-1] + [1] * 22})
    with pytest.raises(BadInputError, match="1 of 23 rows have no label"):
        open_samples(some)


def test_rows_that_only_name_a_file_are_refused_and_the_remedy_is_right(tmp_path, images, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [f"{i}.png" for i in range(3)]
    for path, image in zip(paths, images, strict=False):
        Path(path).write_bytes(image_bytes(image))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": None, "path": path} for path in paths], kind)
    with pytest.raises(BadInputError, match=r"row 0 holds no image, only the path '0\.png'") as e:
        open_samples(write_rows(tmp_path / "a.parquet", {"image": rows}))
    remedy = str(e.value).partition("into the row: ")[2]
    filled = pa.array([eval(remedy, {"path": path, "open": open}) for path in paths], kind)
    np.testing.assert_array_equal(
        everything(open_samples(write_rows(tmp_path / "a.parquet", {"image": filled}))), images[:3]
    )


def test_class_names_of_a_parquet_file_are_the_models_or_a_question(tmp_path, images, labels) -> None:
    samples = open_samples(parquet(tmp_path, images, labels))
    model = tuple(sorted(CLASS_NAMES))
    found = labels_of(samples, class_names=model, num_classes=5)
    assert [model[c] for c in found] == [CLASS_NAMES[c] for c in labels]
    assert labels_of(samples, class_names=None, num_classes=5).tolist() == labels.tolist()
    for names, count in ((("ant", "cat", "dog", "eel", "horse"), 5), (None, 6)):
        with pytest.raises(BadInputError, match="--labels-key none"):
            labels_of(samples, class_names=names, num_classes=count)


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "npy"])
def test_l0_is_the_same_from_every_format(tmp_path, images, labels, kind) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)[:, :5] * 4

    np.savez(tmp_path / "a.npz", images, labels)
    found = [
        mean_realness(model, open_samples(path), num_classes=5, in_channels=3)
        for path in (tmp_path / "a.npz", FORMATS[kind](tmp_path, images, labels))
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind != "npy"])
def test_training_reads_every_format_in_any_order(tmp_path, images, labels, kind) -> None:
    path = FORMATS[kind](tmp_path, images, labels)
    names = CLASS_NAMES if kind == "parquet" else None
    order = np.random.default_rng(0).permutation(23)
    generated = open_generated([path], None, num_classes=5, resolution=16, channels=3, class_names=names)
    for data in (generated, open_real(path, resolution=None, channels=None)):
        np.testing.assert_array_equal(data.read(order), images[order])
        assert data.labels.tolist() == labels.tolist()


@pytest.mark.parametrize("make", [parquet, shard])
def test_grey_images_among_others_are_repeated_and_said(tmp_path, images, labels, make) -> None:
    mixed = [image[..., 0] if i == 3 else image for i, image in enumerate(images)]
    samples = open_samples(make(tmp_path, mixed, labels))
    right = images.copy()
    right[3] = images[3, :, :, :1]
    np.testing.assert_array_equal(everything(samples), right)
    assert any(note.startswith("1 image: grey repeated to RGB") for note in samples.notes)


def test_a_parquet_file_without_images_is_refused(tmp_path, labels) -> None:
    with pytest.raises(BadInputError, match=r"no column of images \(it has label, text\)"):
        open_samples(write_rows(tmp_path / "a.parquet", {"label": labels, "text": ["a"] * 23}))
    with pytest.raises(BadInputError, match="lists of numbers, not image files"):
        open_samples(write_rows(tmp_path / "a.parquet", {"image": [[1, 2]]}), ReadOptions(images_key="image"))
    for content in (b"PAR1", b"PAR1" + bytes(100) + b"PAR1"):
        (tmp_path / "a.parquet").write_bytes(content)
        with pytest.raises(BadInputError, match="not a readable parquet file"):
            open_samples(tmp_path / "a.parquet")
