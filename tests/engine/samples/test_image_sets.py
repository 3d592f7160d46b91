"""Folders, zip and tar files of images: what is read, what is left out and said, and what an output gets."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from image_cases import png, saved, write_tree
from PIL import Image

from jboost.engine.errors import BadInputError
from jboost.engine.samples import ReadOptions, default_output, open_samples, write_samples
from jboost.engine.samples.listing import is_junk
from jboost.trainer.data import open_real

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (4, 6, 6, 3), np.uint8)


def everything(samples) -> np.ndarray:
    return samples.read(np.arange(samples.shape[0]))


def rewritten(samples, out: Path) -> Path:
    """The set with every grey level changed, as a run would."""
    write_samples(out, samples.shape, iter([255 - everything(samples)]), labels=samples.labels, source=samples)
    return out


def files_in(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}


@pytest.mark.parametrize(
    ("name", "junk"),
    [
        ("a.png", False), ("0/a.png", False), ("a..b/.png", True), ("._a.png", True), ("__MACOSX/0/a.png", True),
        ("0/.ipynb_checkpoints/a.png", True), ("Thumbs.db", True), ("0/THUMBS.DB", True), ("desktop.ini", True),
        (".git/a.png", True), ("macosx/a.png", False), ("a/b.thumbs.db.png", False),
    ],
)  # fmt: skip
def test_what_systems_leave_behind(name, junk) -> None:
    assert is_junk(name) == junk


@pytest.mark.parametrize("kind", ["set", "set.zip", "set.tar", "set.tgz"])
def test_every_kind_of_image_in_every_container(tmp_path, kind) -> None:
    path = write_tree(
        tmp_path / kind,
        {
            "0/a.PNG": saved(IMAGES[0]),
            "0/b.bmp": saved(IMAGES[1], "BMP"),
            "1/c.WebP": saved(IMAGES[2], "WEBP", lossless=True),
            "1/d.jpeg": saved(IMAGES[3], "JPEG", quality=100, subsampling=0),
        },
    )
    samples = open_samples(path)
    np.testing.assert_array_equal(everything(samples)[:3], IMAGES[:3])
    np.testing.assert_allclose(everything(samples)[3].astype(int), IMAGES[3], atol=12)
    assert samples.labels.tolist() == [0, 0, 1, 1]
    assert samples.notes == ()
    for out in ("out", "out.zip", "out.tar"):
        again = open_samples(rewritten(samples, tmp_path / out))
        np.testing.assert_array_equal(everything(again), 255 - everything(samples))
        assert again.labels.tolist() == [0, 0, 1, 1]
        assert again.names == ["0/a.PNG", "0/b.png", "1/c.png", "1/d.png"]
        # Every file is what its suffix says.
        for name, data in files_in(tmp_path / out).items():
            assert Image.open(io.BytesIO(data)).format == "PNG", name


def test_a_tars_output_is_a_tar_beside_it(tmp_path) -> None:
    for name, out in (("a.tar", "a.boosted.tar"), ("b.tar.gz", "b.boosted.tar"), ("c.d.tgz", "c.d.boosted.tar")):
        path = write_tree(tmp_path / name, {"a.png": saved(IMAGES[0])})
        assert default_output(open_samples(path)) == tmp_path / out


def test_names_that_would_collide_as_pngs_keep_their_suffix_and_their_labels(tmp_path) -> None:
    names = ["a.jpg", "a.png", "b.bmp"]
    listed = json.dumps({"labels": [[name, i] for i, name in enumerate(names)], "made by": "me"}).encode()
    files = {
        "a.jpg": saved(IMAGES[0], "JPEG"), "a.png": saved(IMAGES[1]), "b.bmp": saved(IMAGES[2], "BMP"), "dataset.json": listed,
    }  # fmt: skip
    samples = open_samples(write_tree(tmp_path / "set.zip", files))
    again = open_samples(rewritten(samples, tmp_path / "out.zip"))
    assert again.names == ["a.jpg.png", "a.png", "b.bmp.png"]
    assert again.labels.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(everything(again), 255 - everything(samples))
    assert json.loads(again.bytes_of("dataset.json"))["made by"] == "me"


def test_images_of_other_kinds_are_counted_aloud_and_never_copied(tmp_path) -> None:
    files = {
        "a.png": saved(IMAGES[0]),
        "b.tif": saved(IMAGES[1], "TIFF"),
        "c.gif": saved(IMAGES[2], "GIF"),
        "picture": saved(IMAGES[3]),  # a PNG without a suffix
        "d.dat": b"\0\0\0\x18ftypheic" + bytes(20),
        "notes.txt": b"kept",
        "Thumbs.db": b"left out",
        ".DS_Store": b"left out",
        "__MACOSX/._a.png": b"left out",
    }
    for kind in ("set", "set.zip", "set.tar"):
        samples = open_samples(write_tree(tmp_path / kind, files))
        assert samples.names == ["a.png"]
        (said,) = samples.notes
        assert said.startswith("4 images of kinds that are not read (.dat, .gif, .tif, no suffix; first: b.tif)")
        out = files_in(rewritten(samples, tmp_path / f"out{Path(kind).suffix}"))
        assert sorted(out) == (["a.png"] if kind == "set" else ["a.png", "notes.txt"])
    only = write_tree(tmp_path / "only.zip", {"a.tif": saved(IMAGES[0], "TIFF")})
    with pytest.raises(
        BadInputError, match=r"it holds 1 image of kinds that are not read \(\.tif; first: a\.tif\); convert"
    ):
        open_samples(only)


def test_linked_class_folders_are_followed_by_every_reader(tmp_path) -> None:
    write_tree(tmp_path / "elsewhere", {f"{i}.png": saved(image) for i, image in enumerate(IMAGES[:2])})
    root = write_tree(tmp_path / "set", {f"1/{i}.png": saved(image) for i, image in enumerate(IMAGES[2:])})
    os.symlink(tmp_path / "elsewhere", root / "0")
    os.symlink(root, root / "1" / "again")  # a loop
    samples, real = open_samples(root), open_real(root, resolution=None, channels=None)
    for found in (samples, real):
        np.testing.assert_array_equal(everything(found), IMAGES)
        assert found.labels.tolist() == [0, 0, 1, 1]
        assert any("1/again leads to a folder that it lies in" in note for note in found.notes)


@pytest.mark.parametrize("make", [lambda p: os.symlink("nowhere", p), os.mkfifo])
def test_a_broken_link_or_a_pipe_in_an_images_place_is_refused(tmp_path, make) -> None:
    root = write_tree(tmp_path / "set", {"0/a.png": saved(IMAGES[0]), "1/a.png": saved(IMAGES[1])})
    make(root / "1" / "b.png")
    for opened in (open_samples, lambda p: open_real(p, resolution=None, channels=None)):
        with pytest.raises(BadInputError, match=r"set/1/b\.png is not a file"):
            opened(root)


def test_a_zip_made_on_windows_is_read_as_folders_and_written_with_slashes(tmp_path) -> None:
    files = {f"{c}\\{i:03d}.png": saved(IMAGES[k]) for k, (c, i) in enumerate([(3, 0), (3, 167), (7, 1), (7, 2)])}
    samples = open_samples(write_tree(tmp_path / "set.zip", files | {"extra\\readme.txt": b"text"}))
    assert samples.labels.tolist() == [3, 3, 7, 7]
    np.testing.assert_array_equal(everything(samples), IMAGES)
    for out in ("out.zip", "out"):
        again = rewritten(samples, tmp_path / out)
        assert sorted(files_in(again)) == ["3/000.png", "3/167.png", "7/001.png", "7/002.png", "extra/readme.txt"]
        assert open_samples(again).labels.tolist() == [3, 3, 7, 7]
    listed = json.dumps({"labels": [["x\\a.png", 5], ["x\\b.png", 6]]}).encode()
    given = write_tree(
        tmp_path / "listed.zip", {"x\\a.png": saved(IMAGES[0]), "x\\b.png": saved(IMAGES[1]), "dataset.json": listed}
    )
    assert open_samples(given).labels.tolist() == [5, 6]
    written = files_in(rewritten(open_samples(given), tmp_path / "out.zip"))
    assert json.loads(written["dataset.json"]) == {"labels": [["x/a.png", 5], ["x/b.png", 6]]}


def test_tars_as_tar_makes_them(tmp_path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:  # as `tar -cf a.tar .` in the folder
        root = write_tree(tmp_path / "set", {"0/a.png": saved(IMAGES[0]), "1/b.png": saved(IMAGES[1])})
        tar.add(root, ".")
    samples = open_samples(tmp_path / "a.tar")
    assert samples.names == ["0/a.png", "1/b.png"]
    np.testing.assert_array_equal(samples.read(np.array([1, 0, 1])), IMAGES[[1, 0, 1]])


def hostile_tar(path: Path, member: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        first = tarfile.TarInfo("0.png")
        first.size = len(saved(IMAGES[0]))
        tar.addfile(first, io.BytesIO(saved(IMAGES[0])))
        tar.addfile(member)
    return path


def test_hostile_tars_are_refused(tmp_path) -> None:
    for name in ("../out.png", "/tmp/out.png", "a\x1b.png", "a/../../b.png", "0.PNG"):
        with pytest.raises(BadInputError, match="write it again"):
            open_samples(hostile_tar(tmp_path / "a.tar", tarfile.TarInfo(name)))
    link = tarfile.TarInfo("b.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(BadInputError, match="link or no plain file"):
        open_samples(hostile_tar(tmp_path / "b.tar", link))


def test_a_truncated_tar_is_refused_at_every_length(tmp_path) -> None:
    whole = write_tree(tmp_path / "a.tar", {f"{i}.png": saved(image) for i, image in enumerate(IMAGES)}).read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        tar.getmembers()
        end = tar.offset
    for length in [*range(0, end, 256), end]:
        (tmp_path / "cut.tar").write_bytes(whole[:length])
        with pytest.raises(BadInputError, match="make or copy it again"):
            open_samples(tmp_path / "cut.tar")
    packed = write_tree(tmp_path / "a.tar.gz", {"a.png": saved(IMAGES[0])}).read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(packed[:-20])
    with pytest.raises(BadInputError, match="make or copy it again"):
        open_samples(tmp_path / "cut.tar.gz")


def test_mixed_sizes_and_colours(tmp_path) -> None:
    grey = IMAGES[1, ..., :1]
    path = write_tree(tmp_path / "set", {"a.png": saved(IMAGES[0]), "b.png": png(grey)})
    samples = open_samples(path)
    np.testing.assert_array_equal(everything(samples), [IMAGES[0], grey.repeat(3, 2)])
    assert samples.notes == ("1 image: grey repeated to RGB (b.png)",)
    wide = np.kron(np.concatenate([IMAGES[2], IMAGES[3]], 1), np.ones((2, 2, 1), np.uint8))
    write_tree(path, {"c.png": saved(wide)})
    with pytest.raises(BadInputError, match=r"c\.png is 24x12, a\.png is 6x6; .*--resize N"):
        open_samples(path)
    sized = open_samples(path, ReadOptions(resize=6))
    assert sized.shape == (3, 6, 6, 3)
    np.testing.assert_array_equal(everything(sized)[2], np.concatenate([IMAGES[2, :, 3:], IMAGES[3, :, :3]], 1))


def test_arrays_are_resized_and_get_the_models_channels(tmp_path) -> None:
    big = np.kron(IMAGES, np.ones((1, 2, 2, 1), np.uint8))
    np.savez(tmp_path / "a.npz", big, np.arange(4), extra=np.arange(3))
    samples = open_samples(tmp_path / "a.npz", ReadOptions(resize=6))
    np.testing.assert_array_equal(everything(samples), IMAGES)
    (said,) = samples.notes
    assert said.startswith("4 images: resized to 6x6 (as ADM's")
    rewritten(samples, tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as again:
        np.testing.assert_array_equal(again["arr_0"], 255 - IMAGES)
        np.testing.assert_array_equal(again["extra"], np.arange(3))
    np.savez(tmp_path / "grey.npz", IMAGES[..., :1])
    grey = open_samples(tmp_path / "grey.npz", ReadOptions(channels=3))
    np.testing.assert_array_equal(everything(grey), IMAGES[..., :1].repeat(3, 3))
    assert grey.notes == ("4 images: grey repeated to RGB",)
    with pytest.raises(BadInputError, match="image 0 is in colour and the model takes grey"):
        open_samples(tmp_path / "a.npz", ReadOptions(channels=1))


def test_training_and_boosting_see_what_a_viewer_shows(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(IMAGES[0], exif=exif)
    root = write_tree(tmp_path / "set", {"0/a.png": turned, "1/b.png": saved(IMAGES[1])})
    samples, real = open_samples(root), open_real(root, resolution=None, channels=None)
    for found in (samples, real):
        np.testing.assert_array_equal(everything(found)[0], np.rot90(IMAGES[0], -1))
        assert any("1 image: turned upright, as its EXIF data says (0/a.png)" in note for note in found.notes)
    hidden = np.concatenate([IMAGES[2], np.zeros((6, 6, 1), np.uint8)], -1)
    write_tree(root, {"1/c.png": saved(hidden)})
    for opened in (open_samples, lambda p: open_real(p, resolution=None, channels=None)):
        with pytest.raises(BadInputError, match=r"1/c\.png has transparent pixels.*--background"):
            opened(root)
    white = ReadOptions(background=(255, 255, 255))
    for found in (open_samples(root, white), open_real(root, resolution=None, channels=None, reading=white)):
        assert (everything(found)[2] == 255).all()
