"""`jboost tune`: it measures what `boost` and `eval` give, finds a planted setting, grows, goes on, and says what it did."""

from __future__ import annotations

import json
import logging
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tune_cases import CLASSES, FEATURES, fid_of, key_of, pictures

from jboost.booster import Booster
from jboost.cli import main
from jboost.cli.interrupts import Interrupted
from jboost.cli.tune import _default_folder
from jboost.engine.method.updates import PGD, SGLD
from jboost.tuning import curve
from jboost.tuning import tune as tuning

PGD_GRID = ("--update", "pgd", "--objective", "logit", "--step-size", "0.2,0.5", "--steps", "2,4", "--grow", 0)
GRID = (*PGD_GRID, "--update", "pgd,sgld", "--noise", "0.01")


def test_its_figures_are_those_of_boost_and_eval(place, jboost, tmp_path, capsys) -> None:
    found = place.tune(*GRID, "--images", 30, "--seed", 5)
    with np.load("samples.npz") as data:
        images, labels = data["arr_0"], data["arr_1"]
    picked = np.array(found["samples"]["tuned_on"])
    assert len(picked) == len(set(picked)) == 30
    assert set(np.bincount(labels[picked], minlength=CLASSES)) == {6}
    assert found["unboosted"] == pytest.approx(fid_of(Path("ref.npz"), images[picked], tmp_path / "a.npz"), abs=1e-6)
    # The whole set is boosted, so an image of the subset keeps the noise of its place in the set.
    with Booster(place.bundle, engine="eager", device="cpu") as booster:
        for setting in found["settings"]:
            _, objective, size, noise, steps = key_of(setting)
            update = PGD(steps, size) if noise is None else SGLD(steps, size, noise)
            boosted = booster.boost(images, labels, update, objective=objective, seed=5).images[picked]
            assert setting["fid"] == pytest.approx(fid_of(Path("ref.npz"), boosted, tmp_path / "a.npz"), abs=1e-6)
            assert setting["gradients"] == steps
    assert len({key_of(setting) for setting in found["settings"]}) == 8
    assert found["best"]["fid"] == min(setting["fid"] for setting in found["settings"])
    # The command, as it is printed.
    assert found["command"] in capsys.readouterr().out.splitlines()
    done = jboost(*shlex.split(found["command"])[1:], "-o", tmp_path / "boosted.npz", cwd=place.root)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "boosted.npz") as data:
        boosted = data["arr_0"][picked]
    assert fid_of(Path("ref.npz"), boosted, tmp_path / "a.npz") == pytest.approx(found["chosen"]["fid"], abs=1e-6)


def test_early_stopping_is_that_of_boost(place, tmp_path, capsys) -> None:
    found = place.tune(
        "--objective", "joint", "--update", "pgd", "--step-size", 1, "--steps", "3,6", "--grow", 0, "--l0", 1.5, out="stops"
    )  # fmt: skip
    with np.load("samples.npz") as data, Booster(place.bundle, engine="eager", device="cpu") as booster:
        done = booster.boost(data["arr_0"], data["arr_1"], PGD(3, 1.0), objective="joint", l0=1.5)
    first = found["settings"][0]
    assert first["early_stop"]
    assert 0 < first["gradients"] < 3
    assert first["gradients"] == pytest.approx(done.summary.steps_used)
    assert first["fid"] == pytest.approx(fid_of(Path("ref.npz"), done.images, tmp_path / "a.npz"), abs=1e-6)
    assert first["realness"] == pytest.approx(done.summary.realness_after, rel=1e-4)
    assert "--l0 1.5" in found["command"]
    said = capsys.readouterr().out
    assert f" ({first['gradients']:.1f})" in said
    assert "(gradients an image, if images stopped early)" in said


def test_without_a_list_the_sizes_lie_around_auto(place, capsys) -> None:
    with np.load("samples.npz") as data, Booster(place.bundle, engine="eager", device="cpu") as booster:
        auto = booster.boost(
            data["arr_0"], data["arr_1"], PGD(4), objective="logit", step_size="auto"
        ).summary.step_size
    found = place.tune(
        "--update", "pgd", "--objective", "logit", "--steps", 1, "--grow", 0, "--bootstrap", 0, out="auto"
    )
    assert [s["step_size"] for s in found["settings"]] == [float(f"{share * auto:.2g}") for share in (0.25, 0.5, 1, 2)]
    assert "gradients an image, if" not in capsys.readouterr().out


def test_it_finds_a_planted_setting_beyond_its_grid(place, jboost, capsys) -> None:
    place.planted(PGD(4, 0.8), "logit")
    how = ("--update", "pgd", "--objective", "logit", "--step-size", "0.2,0.4", "--steps", "2,4,6")
    found = place.tune(*how, ref="planted.npz", out="grown")
    said = capsys.readouterr()
    assert key_of(found["chosen"]) == key_of(found["best"]) == ("pgd", "logit", 0.8, None, 4)
    assert {s["step_size"] for s in found["settings"]} >= {0.2, 0.4, 0.8, 1.6}  # 1.6 shows that 0.8 is no edge
    assert found["edges"] == []
    assert "adding --step-size 0.8" in said.err
    assert "GRID'S EDGE" not in said.out

    bounded = place.tune(*how, "--grow", 0, ref="planted.npz", out="bounded")
    said = capsys.readouterr()
    assert {(e["option"], tuple(e["try"])) for e in bounded["edges"]} >= {("--step-size", (0.8,))}
    assert bounded["best"]["step_size"] == 0.4
    (line, *_) = [line for line in said.out.splitlines() if "GRID'S EDGE" in line and "--step-size" in line]
    remedy = line.split("run the same command with ")[1].split()
    assert remedy == ["--resume", "--grow", "2"]
    again = place.tune(*how, "--grow", 0, *remedy, ref="planted.npz", out="bounded")
    assert key_of(again["best"]) == ("pgd", "logit", 0.8, None, 4)
    assert "kept from before" in capsys.readouterr().err


def test_the_steps_and_the_noise_grow_as_well(place) -> None:
    place.planted(SGLD(6, 0.5, 0.02), "logit")
    how = ("--update", "sgld", "--objective", "logit", "--step-size", 0.5, "--steps", "2,4", "--noise", "0.002,0.02")
    found = place.tune(*how, "--grow", 1, "--bootstrap", 0, ref="planted.npz", out="longer")
    assert key_of(found["chosen"]) == key_of(found["best"]) == ("sgld", "logit", 0.5, 0.02, 6)
    assert {s["noise"] for s in found["settings"]} == {0.002, 0.02, 0.2}
    assert {s["steps"] for s in found["settings"]} == {2, 4, 6, 8}
    assert found["edges"] == []


@pytest.mark.parametrize(
    ("lists", "said"),
    [
        (("--steps", 4, "--noise", "0.1,0.3"), "adding --noise 0, 0.01"),
        (("--steps", "8,16", "--noise", 0), "adding --steps 4"),
    ],
)
def test_the_lower_edges_of_noise_and_steps_grow(place, capsys, lists, said) -> None:
    place.planted(SGLD(4, 0.5, 0.0), "logit")
    how = ("--update", "sgld", "--objective", "logit", "--step-size", 0.5, "--bootstrap", 0, *lists)
    found = place.tune(*how, ref="planted.npz", out=f"lower {lists[1]}")
    assert key_of(found["chosen"])[-1] == 4
    assert found["chosen"]["noise"] <= 0.01
    assert found["edges"] == []
    assert said in capsys.readouterr().err


def test_a_killed_tuning_keeps_its_finished_runs(place, monkeypatch, capsys) -> None:
    whole = place.tune(*GRID, out="whole")
    real, runs = tuning.measure, []

    def killed(*arguments: object) -> object:
        if len(runs) == 2:
            raise Interrupted(2)
        runs.append(1)
        return real(*arguments)

    monkeypatch.setattr(tuning, "measure", killed)
    assert main._run(place.arguments(*GRID, out="killed")) == 130
    assert "go on with: jboost tune --resume samples.npz" in capsys.readouterr().err
    monkeypatch.setattr(tuning, "measure", real)
    files = sorted(Path("killed/runs").glob("*.json"))
    assert len(files) == 2
    capsys.readouterr()
    assert main._run(place.arguments(*GRID, out="killed")) == 2
    assert "--resume (finished runs are kept, the lists may change), name another -o, or" in capsys.readouterr().err
    # One of the two is damaged, and done again.
    features = files[0].with_suffix(".npz")
    features.write_bytes(features.read_bytes()[:-40])
    again = place.tune(*GRID, "--resume", out="killed")
    assert capsys.readouterr().err.count("kept from before") == 1
    for found in (whole, again):
        del found["seconds"]
    assert again == whole


OTHERS = {
    "seed": (("--seed", 1), "--seed was 0, is 1"),
    "images": (("--images", 20), "--images was 40, is 20"),
    "holdout": (("--holdout", 0.5), "--holdout was not given, is 0.5"),
    "protocol": (("--protocol", "pytorch-fid"), "--protocol was not given, is pytorch-fid"),
    "reference": (("--ref", "samples.npz"), "--ref was another one, or had other contents"),
    "early_stop": (("--no-early-stop",), "--early-stop was not given, is off"),
}


@pytest.mark.parametrize(("option", "said"), OTHERS.values(), ids=OTHERS)
def test_another_tuning_is_not_gone_on_with(place, capsys, option, said) -> None:
    if not Path("mine").exists():
        place.tune(*GRID, out="mine")
    before = {file: file.read_bytes() for file in Path("mine").rglob("*") if file.is_file()}
    capsys.readouterr()
    assert main._run(place.arguments(*GRID, "--resume", *option, out="mine")) == 2
    assert f"mine holds another tuning ({said}); go on" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in Path("mine").rglob("*") if file.is_file()} == before


REFUSED = {
    "objective": (("--objective", "nice"), "unknown objective 'nice'"),
    "graph": (("--objective", "energy", "--engine", "onnx"), "no onnx graph for objective energy"),
    "update": (("--update", "pgd,up"), "unknown update 'up'"),
    "noise": (("--update", "pgd", "--noise", "0.1"), "--noise does not apply to pgd; add sgld"),
    "steps 0": (("--steps", "0,5"), "--steps must be at least 1, got 0"),
    "steps": (("--steps", "five"), "--steps takes whole numbers"),
    "size 0": (("--step-size", "0.1,0"), "--step-size must be above 0, got 0"),
    "size": (("--step-size", "0.1,x"), "--step-size takes numbers"),
    "not finite": (("--step-size", "nan"), "--step-size must be above 0, got nan"),
    "noise -1": (("--noise=-1",), "--noise must be at least 0, got -1"),
    "images": (("--images", 1), "--images must be at least 2, got 1"),
    "grow": (("--grow", 99), "--grow must be 0 to 20, got 99"),
    "bootstrap": (("--bootstrap", 3), "at least 20 resamples"),
    "holdout": (("--holdout", "1.5"), "between 0 and 1"),
    "holdout of few": (("--holdout", "0.001"), "leaves fewer than 2"),
    "holdout of statistics": (("--ref", "stats.npz", "--holdout", "0.5"), "holds statistics; give images"),
    "size of REF": (("--ref", "large.npz"), "has 32x32 images, the samples are 16x16"),
    "no REF": (("--ref", "none.npz"), "none.npz does not exist"),
    "features": (("--features", "none.onnx"), "--features none.onnx does not exist"),
    "output": (("-o", "ref.npz"), "-o ref.npz and --ref ref.npz are the same"),
    "file": (("-o", "tiny_extractor.py"), "is a file; name a folder"),
    "folder": (("-o", "no/where"), "does not exist; make it with: mkdir -p no"),
    "in use": (("-o", "full"), "is no tuning's folder; name another with -o"),
    "samples": (("--resize", "24"), "export it again with --resolution 24"),
}


@pytest.mark.parametrize(("options", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_used_is_refused_before_anything_is_boosted(place, capsys, monkeypatch, options, said) -> None:
    if not Path("large.npz").exists():
        np.savez("large.npz", pictures(20, 4, 32))
        np.savez("stats.npz", mu=np.zeros(8), sigma=np.eye(8))
        Path("full").mkdir()
        Path("full/notes.txt").write_text("mine")
    monkeypatch.setattr(Booster, "boost", lambda *_, **__: pytest.fail("boosted"))
    there = sorted(Path().iterdir())
    assert main._run([*place.arguments(out="new"), *map(str, options)]) == 2
    err = capsys.readouterr().err.splitlines()
    assert said in err[-1]
    assert sum(line.startswith("jboost:") for line in err) == 1
    assert sorted(Path().iterdir()) == there


FOLDERS = {
    "run.1.npz": "run.1.tune",
    "run.2.npz": "run.2.tune",
    "a/run.tar.gz": "a/run.tune",
    "run.PT": "run.tune",
    "run.v2": "run.v2.tune",
    "-run.zip": "-run.tune",
    "dir.1": "dir.1_tune",
}


def test_the_default_folder_is_named_as_boost_names_its_outputs(tmp_path, monkeypatch) -> None:
    (tmp_path / "dir.1/inner").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for samples, folder in FOLDERS.items():
        assert _default_folder(Path(samples)).resolve() == tmp_path / folder
    monkeypatch.chdir("dir.1")
    assert _default_folder(Path()) == _default_folder(Path("inner/..")) == tmp_path / "dir.1_tune"


def test_a_folder_without_a_name_needs_an_output(place, capsys) -> None:
    assert main._run(["tune", "/", *place.arguments()[2:-2]]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("give -o")


def test_images_of_the_working_folder_are_tuned_beside_it(place, monkeypatch, tmp_path) -> None:
    (tmp_path / "images").mkdir()
    for i, image in enumerate(pictures(6, 1)):
        Image.fromarray(image).save(tmp_path / f"images/{i}.png")
    ref = place.root / "ref.npz"
    monkeypatch.syspath_prepend(place.root)
    monkeypatch.chdir(tmp_path / "images")
    options = ["tune", ".", *place.arguments(*PGD_GRID, "--bootstrap", 0, ref=str(ref))[2:]]
    assert main._run([a for i, a in enumerate(options) if a != "-o" and options[i - 1] != "-o"]) == 0
    assert (tmp_path / "images_tune/tune.json").exists()


def test_the_printed_commands_repeat_what_was_given(place, capsys) -> None:
    place.tune(*PGD_GRID, "--bootstrap", 0, "-b", 7, "--protocol", "pytorch-fid", out="repeated")
    out = capsys.readouterr().out.splitlines()
    (boost,) = [line for line in out if line.startswith("jboost boost")]
    (report,) = [line for line in out if ": jboost eval" in line]
    for line in (boost, report):
        assert "--device cpu --batch-size 7" in line
    assert "--protocol pytorch-fid" in report
    place.tune(*PGD_GRID, "--bootstrap", 0, out="plain")
    out = capsys.readouterr().out
    assert "--batch-size" not in out
    assert "--protocol" not in out


def test_the_log_s_filter_is_removed(place) -> None:
    before = logging.getLogger("jboost").filters[:]
    place.tune(*PGD_GRID, "--bootstrap", 0, out="filtered")
    assert logging.getLogger("jboost").filters == before


def test_features_must_be_named(place, installed) -> None:
    done = installed(*(a for a in place.arguments(out="new") if a not in FEATURES[:2]), cwd=place.root)
    assert (done.returncode, done.stdout) == (2, "")
    assert "jboost: --features is missing" in done.stderr.splitlines()[-1]


def test_the_curve(place, monkeypatch, capsys) -> None:
    place.tune(*PGD_GRID, "--bootstrap", 0, out="drawn")
    assert "no curve: matplotlib is not installed" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(curve, "can_draw", lambda: True)
    place.tune(*PGD_GRID, "--resume", out="drawn")  # the remedy
    assert "curve.png" in capsys.readouterr().out
    with Image.open("drawn/curve.png") as picture:
        assert picture.width > 500


def test_few_images_are_said(place, capsys) -> None:
    place.tune(*PGD_GRID, "--images", 6, "--bootstrap", 0, out="few")
    out = capsys.readouterr().out
    assert "6 samples for 8 dimensions" in out
    assert "FIDs of 6 images: compare them with each other only" in out


def test_json_on_stdout_is_all_of_it(place, capsys) -> None:
    assert main._run(place.arguments(*PGD_GRID, "--json", "-", out="piped")) == 0
    found = capsys.readouterr()
    assert json.loads(found.out) == json.loads(Path("piped/tune.json").read_text())
    assert "jboost boost samples.npz" in found.err
