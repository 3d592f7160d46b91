"""Readers of a bundle that another export replaces: they see the old one or the new one, or say what happened."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from children import Child, together
from processes import wait_until

import jboost
from jboost.engine.bundle import Bundle, BundleConfig, artefact_of
from jboost.engine.errors import BadInputError
from jboost.engine.samples import open_samples
from jboost.engine.system.replacing import replacing_folder


def write(out: Path, letter: str) -> None:
    """A bundle of two files that belong together."""
    with replacing_folder(out, overwrite=True) as aside:
        files = {}
        for name in ("graph", "weights"):
            (aside / name).write_text(letter * 1000)
            files[name] = artefact_of(aside, name)
        source = {"file": "joint.pt", "sha256": letter * 64}
        config = BundleConfig("x", 3, 3, (8,), (0.5,) * 3, (0.5,) * 3, None, None, source, {}, files)
        (aside / "config.json").write_text(config.to_json())


def write_again_and_again(out: Path, stop: Path) -> None:
    while not stop.exists():
        for letter in "bcdefa":
            write(out, letter)


def test_a_reader_sees_one_bundle_or_is_told_that_it_was_replaced(tmp_path) -> None:
    out, stop = tmp_path / "bundle", tmp_path / "stop"
    write(out, "a")
    child, seen, told = Child(write_again_and_again, out, stop), set(), 0

    def read() -> bool:
        nonlocal told
        bundle = Bundle(out, trust_code=True)
        try:
            texts = [bundle.checked_path(name).read_text() for name in ("graph", "weights")]
            bundle.check_unreplaced()
        except FileNotFoundError:  # between the check and the reading, which is the reader's own
            pass
        except BadInputError as e:
            told += str(e) == f"bundle {out} was replaced while it was being read; run the command again"
        else:
            assert texts == [bundle.config.source["sha256"][0] * 1000] * 2
            seen.add(texts[0][0])
        return len(seen) == 6 and told > 0

    try:
        wait_until(read)
    finally:
        stop.touch()
        together(child)
    Bundle(out, trust_code=True).check()


def test_an_open_file_of_a_replaced_bundle_stays_readable(tmp_path) -> None:
    write(tmp_path / "bundle", "a")
    with Bundle(tmp_path / "bundle").checked_path("weights").open() as old:
        write(tmp_path / "bundle", "b")
        assert old.read() == "a" * 1000


def test_a_run_that_opens_its_engine_late_says_that_the_bundle_was_replaced(bundle, samples, tmp_path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    with jboost.load(copy, engine="eager", device="cpu") as booster:
        settings = booster.settings(jboost.PGD(1, 0.1))
        config = booster.bundle.config
        (copy / "config.json").write_text(replace(config, timings=()).to_json())  # same files, another export
        with pytest.raises(BadInputError, match="was replaced while it was being read; run the command again"):
            booster.boost_file(open_samples(samples), tmp_path / "out.npz", settings)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "samples.npz"]
    with jboost.load(copy, engine="eager", device="cpu") as booster:
        assert booster.boost_file(open_samples(samples), tmp_path / "out.npz", settings).images == 23
        shutil.rmtree(copy)  # what is open stays open
        assert booster.boost_file(open_samples(samples), tmp_path / "more.npz", settings).images == 23
