"""Patterns, folders of shards, ranges of an npz, and the names of outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from shard_cases import make_shards

from jboost.engine.errors import BadInputError
from jboost.engine.samples import open_samples
from jboost.engine.samples.npz_range import NpzRange
from jboost.engine.samples.numbers import sample_numbers
from jboost.engine.samples.patterns import expand, is_pattern, names_of, shard_files
from jboost.engine.shards.plan import is_many, make_plan


def touched(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_braces_keep_their_order_and_width() -> None:
    assert list(names_of("a{08..11}.tar")) == ["a08.tar", "a09.tar", "a10.tar", "a11.tar"]
    assert list(names_of("{2..0}")) == ["2", "1", "0"]
    assert list(names_of("{b,a}{1..2}")) == ["b1", "b2", "a1", "a2"]
    assert list(names_of("{x}{}")) == ["{x}{}"]
    for huge in ("{0..99999999}", "{0..9999}{0..9999}", "{0..1" + "0" * 40 + "}"):
        with pytest.raises(BadInputError):
            names_of(huge)


def test_globs_are_sorted_and_a_file_of_that_name_comes_first(tmp_path: Path) -> None:
    touched(tmp_path, "b.tar", "a.tar", "a[1].tar", ".hidden.tar")
    assert [p.name for p in expand(tmp_path / "*.tar")] == ["a.tar", "a[1].tar", "b.tar"]
    assert not is_pattern(tmp_path / "a[1].tar")
    with pytest.raises(BadInputError, match="matches no file"):
        expand(tmp_path / "*.npz")
    with pytest.raises(BadInputError, match=r"c\.tar does not exist: 1 of the 3"):
        expand(f"{tmp_path}/{{a,b,c}}.tar")


def test_folders_of_shards(tmp_path: Path) -> None:
    found = shard_files(touched(tmp_path / "one", "b.tar", "a.tar.gz", "notes.txt"))
    assert [p.name for p in found] == ["a.tar.gz", "b.tar"]
    assert shard_files(touched(tmp_path / "none", "notes.txt")) == []
    assert shard_files(touched(tmp_path / "images", "0/a.png", "stats.npz")) == []
    assert shard_files(touched(tmp_path / "top", "a.png", "stats.npz")) == []
    with pytest.raises(BadInputError, match="several kinds"):
        shard_files(touched(tmp_path / "both", "a.tar", "b.npz"))


def test_outputs_have_names_of_their_own(tmp_path: Path) -> None:
    touched(tmp_path, "x/a.tar", "y/a.tar", "z/A.tar.gz")
    assert [s.name for s in make_plan([tmp_path / "z/A.tar.gz"]).shards] == ["A.tar"]
    for pair in (("x/a.tar", "y/a.tar"), ("x/a.tar", "z/A.tar.gz"), ("x/a.tar", "x/a.tar")):
        with pytest.raises(BadInputError, match="would both be written as"):
            make_plan([tmp_path / name for name in pair])
    with pytest.raises(BadInputError, match="is no shard"):
        make_plan([tmp_path / "x", touched(tmp_path, "w/0.png") / "w"])
    assert not is_many([tmp_path / "x/a.tar"])
    assert is_many([tmp_path / "x"])
    assert is_many([tmp_path / "*/a.tar"])


def test_ranges_hold_each_image_once_with_its_number(samples: Path, images: np.ndarray, labels: np.ndarray) -> None:
    plan = make_plan([samples], 4)
    assert [s.name for s in plan.shards][::3] == ["samples.00000-of-00004.npz", "samples.00003-of-00004.npz"]
    assert [s.stop - s.first for s in plan.shards] == [6, 6, 6, 5]
    from jboost.engine.samples import ReadOptions

    parts = [shard.open(ReadOptions()) for shard in plan.shards]
    np.testing.assert_array_equal(np.concatenate([p.read(np.arange(p.shape[0])) for p in parts]), images)
    np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), labels)
    np.testing.assert_array_equal(np.concatenate([sample_numbers(p) for p in parts]), np.arange(23))
    np.testing.assert_array_equal(parts[2].read(np.array([1, 3])), images[[13, 15]])
    with pytest.raises(BadInputError, match="from 1 to 23"):
        make_plan([samples], 24)


def test_a_compressed_npz_says_how_to_save_it(tmp_path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    np.savez_compressed(tmp_path / "packed.npz", images, labels)
    with pytest.raises(BadInputError, match="compressed") as e:
        make_plan([tmp_path / "packed.npz"], 2)
    program = str(e.value).partition("python -c ")[2]
    import shlex

    exec(shlex.split(program)[0])
    assert len(make_plan([tmp_path / "packed.plain.npz"], 2).shards) == 2
    np.testing.assert_array_equal(NpzRange(tmp_path / "packed.plain.npz", 1, 3).read(np.arange(2)), images[1:3])


@pytest.mark.parametrize("kind", ["tar", "parquet", "npz"])
def test_numbers_do_not_depend_on_other_shards(
    tmp_path: Path, kind: str, images: np.ndarray, labels: np.ndarray
) -> None:
    folder = make_shards(tmp_path / "in", kind, images, labels)
    numbers = [sample_numbers(open_samples(path)) for path in shard_files(folder)]
    for own in numbers:
        assert own.dtype == np.int64
        assert own.min() >= 0
        assert len(set(own.tolist())) == len(own)
    if kind == "npz":
        np.testing.assert_array_equal(numbers[1], np.arange(len(numbers[1])))
    if kind == "parquet":
        assert len({n for own in numbers for n in own.tolist()}) == 23
    several = open_samples(folder)
    assert several.shape[0] == 23
    np.testing.assert_array_equal(sample_numbers(several), np.concatenate(numbers))
    np.testing.assert_array_equal(several.read(np.arange(3, 20)), images[3:20])
    np.testing.assert_array_equal(several.labels, labels)


def test_the_hash_is_the_documented_one() -> None:
    import hashlib

    from jboost.engine.samples.numbers import number_of

    digest = hashlib.blake2b(b"part0/007", digest_size=8).digest()
    assert number_of("part0/007") == int.from_bytes(digest, "big") >> 1
