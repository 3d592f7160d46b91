"""References that settings were tuned on are known again, and `jboost eval` says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tune_cases import FEATURES, pictures

from jboost.cli import main
from jboost.engine.samples import open_samples
from jboost.tuning.marks import mark, reference_digest, shared, sketch, warning

TUNE = ("--update", "pgd", "--objective", "logit", "--step-size", 0.3, "--steps", 1, "--images", 10, "--bootstrap", 0)


def marked(path: str) -> None:
    images = open_samples(path)
    assert mark(Path(path), {"digest": reference_digest(Path(path), images), "sketch": sketch(images)})


def said_of(path: str) -> str | None:
    return warning(Path(path), open_samples(path))


def test_eval_warns_of_the_reference_and_of_no_other(place, capsys) -> None:
    place.tune(*TUNE)
    capsys.readouterr()
    np.savez("other.npz", pictures(60, 9))
    for reference, times in (("ref.npz", 1), ("other.npz", 0)):
        assert main._run(["eval", reference, "samples.npz", *FEATURES, "--metrics", "fid", "--bootstrap", "0"]) == 0
        assert capsys.readouterr().out.count("settings were tuned on this reference") == times


def test_the_held_out_part_is_what_to_report_on(place, capsys) -> None:
    found = place.tune(*TUNE, "--holdout", 0.4, out="split")
    with np.load("ref.npz") as ref, np.load("split/reference.npz") as tuned, np.load("split/holdout.npz") as held:
        assert (len(tuned["arr_0"]), len(held["arr_0"])) == (36, 24)
        parts = np.concatenate([tuned["arr_0"], held["arr_0"]])
        assert {image.tobytes() for image in parts} == {image.tobytes() for image in ref["arr_0"]}
        pairs = {(image.tobytes(), int(label)) for image, label in zip(ref["arr_0"], ref["arr_1"], strict=True)}
        assert {(i.tobytes(), int(y)) for i, y in zip(held["arr_0"], held["arr_1"], strict=True)} <= pairs
    assert found["reference"]["held_out"] == "split/holdout.npz"
    assert "jboost eval split/holdout.npz samples.npz samples.boosted.npz" in capsys.readouterr().out
    assert said_of("split/holdout.npz") is None
    assert "this reference" in (said_of("split/reference.npz") or "")
    assert "shares images with this one (60% of both)" in (said_of("ref.npz") or "")


def test_a_copy_in_another_order_and_format_is_known_again(place) -> None:
    marked("ref.npz")
    Path("folder").mkdir()
    with np.load("ref.npz") as data:
        for i, image in enumerate(data["arr_0"]):
            Image.fromarray(image).save(f"folder/{59 - i:02d}.png")
    assert "this reference" in (said_of("folder") or "")


def test_statistics_are_known_by_their_file(place) -> None:
    np.savez("stats.npz", mu=np.zeros(8), sigma=np.eye(8))
    assert warning(Path("stats.npz"), None) is None
    assert mark(Path("stats.npz"), {"digest": reference_digest(Path("stats.npz"), None), "sketch": []})
    assert "this reference" in (warning(Path("stats.npz"), None) or "")


def test_a_damaged_mark_hides_no_other(place, tmp_path) -> None:
    marked("ref.npz")
    (whole,) = (tmp_path / "cache" / "tuned").glob("*.json")
    (whole.parent / "0.json").write_text('{"format": 1, "sketch": [1]}')
    (whole.parent / "1.json").write_bytes(whole.read_bytes()[:99])
    assert "this reference" in (said_of("ref.npz") or "")


def test_a_mark_that_cannot_be_written_is_said(place, capsys, monkeypatch) -> None:
    monkeypatch.setenv("JBOOST_CACHE", "ref.npz")  # a file, so no folder can be made in it
    place.tune(*TUNE, out="unmarked")
    assert "`jboost eval` will not warn of this reference (set JBOOST_CACHE)" in capsys.readouterr().out


def test_a_sketch_estimates_how_much_two_sets_share() -> None:
    names = [f"{i:016x}" for i in np.random.default_rng(0).integers(0, 2**62, 5000)]
    one, other = set(names[:3000]), set(names[2000:])  # 1,000 of 5,000 are in both
    small = [sorted(s)[:256] for s in (one, other)]
    assert shared(*small) == pytest.approx(0.2, abs=0.08)
    assert shared(small[0], small[0]) == 1
    assert shared(sorted(names[:2000])[:256], sorted(names[3000:])[:256]) == 0
    assert shared([], small[0]) == 0
