"""Reading and writing sample sets; every bad one is refused in one line that says what to do."""

from __future__ import annotations

import io
import json
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jboost.engine.errors import BadInputError
from jboost.engine.samples import check_output, default_output, open_samples, write_samples
from jboost.engine.samples.base import check_fit, runs


def everything(samples) -> np.ndarray:
    return samples.read(np.arange(samples.shape[0]))


def rewrite(samples, out: Path, **options) -> None:
    whole = everything(samples)
    write_samples(out, samples.shape, iter(np.array_split(whole, 3)), labels=samples.labels, source=samples, **options)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_round_trip_keeps_every_array(tmp_path, images, labels, save) -> None:
    save(tmp_path / "a.npz", images, labels.astype(np.int32), prompt=np.arange(3.0), arr_2=np.array(["x"]))
    samples = open_samples(tmp_path / "a.npz")
    np.testing.assert_array_equal(everything(samples), images)
    np.testing.assert_array_equal(samples.read(np.array([0, 3, 4, 5, 22])), images[[0, 3, 4, 5, 22]])
    rewrite(samples, tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz", allow_pickle=False) as old, np.load(tmp_path / "a.npz") as new:
        assert old.files == new.files
        for name in new.files:
            np.testing.assert_array_equal(old[name], new[name])
            assert old[name].dtype == new[name].dtype


def test_the_same_images_give_the_same_bytes(tmp_path, samples) -> None:
    for name in ("b.npz", "c.npz", "b.zip", "c.zip"):
        rewrite(open_samples(samples), tmp_path / name)
    assert (tmp_path / "b.npz").read_bytes() == (tmp_path / "c.npz").read_bytes()
    assert (tmp_path / "b.zip").read_bytes() == (tmp_path / "c.zip").read_bytes()


def make_folder(root: Path, images, folders) -> Path:
    for i, (image, folder) in enumerate(zip(images, folders, strict=True)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / folder / f"{i:03d}.png")
    return root


def zip_folder(root: Path) -> Path:
    out = root.with_suffix(".zip")
    with zipfile.ZipFile(out, "w") as archive:
        for file in root.rglob("*"):
            archive.write(file, file.relative_to(root))
    return out


@pytest.mark.parametrize("zipped", [False, True])
def test_png_classes_come_from_folder_numbers(tmp_path, images, zipped) -> None:
    root = make_folder(tmp_path / "set", images[:6], ["3", "0", "3", "1", "0", "0"])
    samples = open_samples(zip_folder(root) if zipped else root)
    assert samples.labels.tolist() == [0, 0, 0, 1, 3, 3]
    np.testing.assert_array_equal(everything(samples), images[[1, 4, 5, 3, 0, 2]])
    out = tmp_path / ("out.zip" if zipped else "out")
    rewrite(samples, out)
    again = open_samples(out)
    assert again.names == samples.names
    np.testing.assert_array_equal(everything(again), everything(samples))


def test_png_folders_with_names_are_kept_for_the_bundle_to_settle(tmp_path, images) -> None:
    samples = open_samples(make_folder(tmp_path / "set", images[:3], ["tench", "goldfish", "tench"]))
    assert samples.label_names == ("goldfish", "tench")
    assert samples.labels.tolist() == [0, 1, 1]


def test_flat_folder_has_no_labels_and_dataset_json_gives_them(tmp_path, images) -> None:
    root = make_folder(tmp_path / "set", images[:3], [".", ".", "."])
    assert open_samples(root).labels is None
    (root / "dataset.json").write_text(json.dumps({"labels": [["000.png", 2], ["001.png", 0], ["002.png", 1]]}))
    assert open_samples(root).labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_npz_to_png_keeps_order_and_labels(tmp_path, samples, images, labels, name) -> None:
    rewrite(open_samples(samples), tmp_path / name)
    again = open_samples(tmp_path / name)
    np.testing.assert_array_equal(everything(again), images)
    np.testing.assert_array_equal(again.labels, labels)


def test_grey_images_keep_their_channel(tmp_path, images) -> None:
    np.savez(tmp_path / "a.npz", images[..., :1])
    rewrite(open_samples(tmp_path / "a.npz"), tmp_path / "out")
    assert open_samples(tmp_path / "out").shape == (23, 16, 16, 1)


def savez(path, *arrays) -> None:
    np.savez(path, *arrays)


BAD = {
    "not an npz": (lambda p, x, y: p.write_bytes(b"hello"), "np.savez"),
    "a pickle": (lambda p, x, y: p.write_bytes(b"\x80\x04]."), "np.savez"),
    "floats": (lambda p, x, y: savez(p, x / 255.0, y), "astype"),
    "NCHW": (lambda p, x, y: savez(p, x.transpose(0, 3, 1, 2), y), "transpose"),
    "two channels": (lambda p, x, y: savez(p, x[..., :2], y), "channels"),
    "three dimensions": (lambda p, x, y: savez(p, x[..., 0], y), r"\[N, H, W, C\]"),
    "empty": (lambda p, x, y: savez(p, x[:0], y[:0]), "no images"),
    "too few labels": (lambda p, x, y: savez(p, x, y[:-1]), "22 labels for 23"),
    "float labels": (lambda p, x, y: savez(p, x, y.astype(float)), "astype"),
    "one-hot labels": (lambda p, x, y: savez(p, x, np.eye(5, dtype=int)[y]), "argmax"),
    "negative labels": (lambda p, x, y: savez(p, x, y - 1), "negative"),
    "other names": (lambda p, x, y: np.savez(p, pixels=x), "--images-key pixels"),
    "object labels": (lambda p, x, y: np.savez(p, x, np.array([{}], object)), "never unpickles"),
    "another object array": (lambda p, x, y: np.savez(p, x, y, meta=np.array([{}], object)), "meta"),
    "Fortran order": (lambda p, x, y: savez(p, np.asfortranarray(x), y), "ascontiguousarray"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_npz_is_refused_in_one_line(tmp_path, images, labels, case) -> None:
    make, remedy = BAD[case]
    path = tmp_path / "bad.npz"
    make(path, images, labels)
    with pytest.raises(BadInputError, match=remedy) as e:
        open_samples(path)
    assert "\n" not in str(e.value)


def test_a_truncated_npz_is_refused_at_every_length(samples) -> None:
    whole = samples.read_bytes()
    for keep in (5, 100, len(whole) // 2, len(whole) - 1):
        samples.write_bytes(whole[:keep])
        with pytest.raises(BadInputError):
            open_samples(samples)


def test_a_header_that_promises_more_than_there_is_is_refused(tmp_path, images) -> None:
    buffer = io.BytesIO()
    np.save(buffer, images)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("arr_0.npy", buffer.getvalue()[:-100])
    with pytest.raises(BadInputError, match="truncated"):
        open_samples(tmp_path / "a.npz")


def test_bad_png_sets_are_refused(tmp_path, images) -> None:
    mixed_sizes = make_folder(tmp_path / "sizes", [images[0], images[1][:8]], [".", "."])
    mixed_places = make_folder(tmp_path / "places", images[:2], [".", "1"])
    broken = make_folder(tmp_path / "broken", images[:1], ["."])
    (broken / "b.png").write_bytes(b"no png")
    (tmp_path / "none").mkdir()
    bad = {
        mixed_sizes: "--resize",
        mixed_places: "into folders",
        broken: "readable",
        tmp_path / "none": "npz",
    }
    for root, remedy in bad.items():
        with pytest.raises(BadInputError, match=remedy):
            open_samples(root)


def test_default_output_lies_beside_the_input(tmp_path, samples, images) -> None:
    assert default_output(open_samples(samples)) == tmp_path / "samples.boosted.npz"
    root = make_folder(tmp_path / "set", images[:2], [".", "."])
    assert default_output(open_samples(root)) == tmp_path / "set_boosted"
    assert default_output(open_samples(zip_folder(root))) == tmp_path / "set.boosted.zip"


def test_unusable_outputs_are_refused_before_anything_is_written(tmp_path, samples) -> None:
    source = open_samples(samples)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for out in (samples, tmp_path / "no" / "out.npz", tmp_path / "out.rar", tmp_path / "full"):
        with pytest.raises(BadInputError):
            check_output(out, source, bytes_needed=1)
    with pytest.raises(BadInputError, match="MB free"):
        check_output(tmp_path / "out.npz", source, bytes_needed=10**18)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["full", "samples.npz"]


def test_a_failed_write_leaves_nothing_and_spares_the_old_file(tmp_path, samples) -> None:
    out = tmp_path / "out.npz"
    out.write_bytes(b"old")
    source = open_samples(samples)

    def broken():
        yield everything(source)[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_samples(out, source.shape, broken(), source=source)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # what a full disk does, at a size that a test can reach
    try:
        with pytest.raises(BadInputError, match="no room"):
            write_samples(out, source.shape, iter([everything(source)]), source=source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.npz", "samples.npz"]


def test_runs_groups_neighbours() -> None:
    assert runs(np.array([0, 1, 2, 5, 7, 8])) == [(0, 3), (5, 6), (7, 9)]
    assert runs(np.array([], int)) == []


@pytest.mark.parametrize(
    ("shape", "remedy"),
    [((2, 8, 8, 3), "; export it again with --resolution 8, or resize"), ((2, 8, 12, 3), "; resize")],
)
def test_images_of_another_size_are_refused_with_a_remedy_that_works(shape, remedy) -> None:
    """No export takes images that are not square."""
    with pytest.raises(BadInputError, match=f"for 16x16{remedy} the images: --resize 16$"):
        check_fit(None, shape, num_classes=2, in_channels=3, resolutions=(16,))
