"""Long steps against short ones: paths that are those of `jboost boost`, lengths chosen on other images, honest verdicts."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "paper"))

import page
from fewer_found import Found, choose_lengths, length_at, ruled_few, target_cosine, tuned_few
from fewer_plan import LENGTHS, PATHS, REPORTED, SETTINGS, STEPS, steps_measured
from trajectories import cosine, follow

import jboost
from jboost.engine.backends.onnx.cpu import OnnxRunner
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.method.updates import PGD, SGLD

FLOW = SETTINGS[0]
QUALITY = Path(page.__file__).parent


@pytest.mark.parametrize(
    ("update", "stops"),
    [
        (PGD(steps=4, step_size=1.5), True),
        (PGD(steps=4, step_size=1.5), False),
        (SGLD(steps=4, step_size=0.05, noise=0.0), False),
    ],
)
def test_a_path_is_that_of_boost(bundle, images, labels, update, stops):
    with jboost.load(bundle, engine="onnx") as booster:
        boosted = booster.boost(images, labels, update, objective="joint", early_stop=stops, snapshots=[1, 2, 3])
    opened = Bundle(bundle)
    runner = OnnxRunner(opened, RunRequest("joint", opened.config.l0, images.shape[1], "cpu"))
    limit = float(opened.config.l0) if stops else math.inf
    found = follow(runner, images, labels.astype(np.int64), update, threshold=limit)
    assert (found.levels[4] == boosted.images).all()
    for steps, snapshot in boosted.snapshots.items():
        assert (found.levels[steps] == snapshot).all()
    # One more gradient than steps shows an image that it has arrived.
    stopped = boosted.records["stopped"]
    assert stopped.any() == stops
    assert (found.gradients[4] == boosted.records["steps"] + stopped).all()
    assert np.isnan(found.cosines[3]).all()
    assert (np.abs(found.cosines[0][found.gradients[4] > 1]) <= 1 + 1e-6).all()


def test_the_cosine_of_known_angles():
    a = np.array([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 0.0]])
    b = np.array([[3.0, 3.0], [-1.0, 0.0], [0.0, 5.0], [1.0, 0.0]])
    assert cosine(a, b) == pytest.approx([math.sqrt(0.5), -1, 0, 0])


def test_every_number_of_steps_is_measured_around_the_best_paths():
    assert [steps for steps in STEPS if steps <= 5] == [1, 2, 3, 4, 5]
    for length, most in REPORTED.items():
        assert most <= LENGTHS[length]
        assert all(n == 1 or PATHS[0] <= n * length <= PATHS[1] for n in steps_measured(length, most))
    tried = {n for length, most in REPORTED.items() for n in steps_measured(length, most)}
    assert {1, 2, 3, 4, 5, 10, 20} <= tried


def test_each_number_of_steps_takes_its_best_length():
    rows = {(0.8, 4): {"fid": 2.0}, (1.13, 4): {"fid": 1.9}, (0.8, 2): {"fid": 5.0}, (0.0, 0): {"fid": 0.1}}
    assert choose_lengths(rows) == {2: 0.8, 4: 1.13}


def test_a_length_lies_where_its_cosine_is_wanted():
    cosines = {0.4: 0.9, 1.6: 0.7}
    assert length_at(cosines, 0.8) == pytest.approx(0.8)  # half way in octaves
    assert length_at(cosines, 0.99) == 0.4
    assert length_at(cosines, 0.1) == 1.6
    assert [round(target_cosine(steps), 3) for steps in (2, 4, 20)] == [0.667, 0.833, 0.967]


def made_up(four: list[float], recall: float = 0.5) -> dict:
    """What `fewer.py` writes, of one setting and two seeds.

    20 x 0.14 has a FID of 5 in [4, 6], the preset one of 8, and 4 x 0.8 that of `four`.
    """

    def row(length: float, steps: int, fid: float) -> dict:
        return {
            "length": length, "steps": steps, "gradients": steps * 0.9, "fid": fid, "fid_interval": [fid - 1, fid + 1],
        }  # fmt: skip

    name = f"{FLOW.name}.stop"
    paths = {f"tune/{name}": {"rows": [row(0.14, 20, 5.0), row(0.8, 4, 4.5), row(1.13, 4, 9.0)], "turns": []}}
    neighbours = {}
    for seed, fid in enumerate(four):
        rows = [row(0.0, 0, 20.0), row(0.1, 35, 8.0), row(0.14, 20, 5.0), row(0.8, 4, fid), row(1.13, 4, 0.1)]
        turns = [{"length": 0.8, "first": [0.7, 0.8, 0.9]}, {"length": 3.2, "first": None}]
        paths[f"seed{seed}/{name}"] = {"rows": rows, "turns": turns}
        spread = {"precision": 0.7, "recall": 0.5, "density": 1.0, "coverage": 0.6, "recall_interval": [0.4, 0.6]}
        spread["coverage_interval"] = [0.5, 0.7]
        neighbours[f"seed{seed}/{name}"] = {
            "0.14.20": spread, "0.8.4": spread | {"recall": recall},
        }  # fmt: skip
    machine = {"cpu": "a CPU", "cores": 2, "torch": "2"}
    plan = {"seeds": list(range(len(four))), "count": 500, "tuning": 400, "resamples": 100}
    return {"plan": plan, "machine": machine, "seconds": 60, "missing": [], "paths": paths, "neighbours": neighbours}


def add_rule(values: dict, seed: int, length: float, fid: float) -> None:
    """Four steps of a length that the cosine gave, with the spread of many."""
    name = f"seed{seed}/{FLOW.name}.stop.rule"
    row = {"length": length, "steps": 4, "gradients": 4, "fid": fid, "fid_interval": [0, 9]}
    values["paths"][name] = {"rows": [row], "turns": [], "cosine": {"4": length}}
    values["neighbours"][name] = {f"{length:g}.4": {"precision": 0.7, "recall": 0.5, "density": 1.0, "coverage": 0.6}}


def test_few_hold_only_inside_the_interval_of_many_in_every_seed():
    found = Found(made_up([5.9, 4.0]))
    assert found.many(FLOW) == [(0.14, 20), (0.1, 35)]
    # One length, as chosen on the tuning samples, though another one is better on the reported ones.
    (few,) = tuned_few(found, FLOW)
    assert (few.steps, few.lengths) == (4, {0: 0.8, 1: 0.8})
    assert few.limits == {0: 6.0, 1: 6.0}
    assert few.holds
    (few,) = tuned_few(Found(made_up([5.9, 6.1])), FLOW)
    assert not few.holds


def test_few_that_lose_recall_do_not_hold():
    (few,) = tuned_few(Found(made_up([4.0, 4.0], recall=0.39)), FLOW)
    assert few.lacking == {"recall": [0, 1], "coverage": []}
    assert not few.holds


def test_a_seed_without_recall_is_not_judged():
    values = made_up([5.0, 5.0])
    del values["neighbours"][f"seed1/{FLOW.name}.stop"]["0.8.4"]
    (few,) = tuned_few(Found(values), FLOW)
    assert list(few.fids) == [0]


def test_a_rule_has_a_length_for_each_seed():
    values = made_up([5.0, 5.0])
    for seed, fid in enumerate((5.5, 6.5)):
        add_rule(values, seed, 0.7 + seed / 100, fid)
    found = Found(values)
    (few,) = ruled_few(found, FLOW, "cosine")
    assert (few.lengths, few.holds) == ({0: 0.7, 1: 0.71}, False)
    assert ruled_few(found, FLOW, "path") == []


def test_the_page_names_what_does_not_hold(tmp_path):
    results, fewer = tmp_path / "results.json", tmp_path / "fewer.json"
    plan = {"seeds": [0], "scale": 1.0, **dict.fromkeys((
        "training_images", "test_images", "flow_iterations", "reflow_pairs", "reflow_iterations", "vae_iterations",
        "model_iterations", "batch_size", "large_iterations", "training_samples", "samples", "tuning_samples",
    ), 1)}  # fmt: skip
    machine = {"cpu": "a CPU", "cores": 2, "system": "Linux", "python": "3", "torch": "2", "jboost": "0", "bf16": False}
    empty = {"missing": [], "yardsticks": {}, "models": [], "tuning": {}, "pixels": [], "measurements": [], "steps": {}}
    results.write_text(json.dumps({"plan": plan, "machine": machine, **empty}))
    values = made_up([5.9, 6.1])
    for seed, fid in enumerate((5.9, 6.1)):
        add_rule(values, seed, 0.7, fid)
    values["missing"] = ["tune/flow1.joint.raw", "seed0/flow1.joint.raw", "seed1/flow1.joint.raw", "seed1/bundle.wide"]
    fewer.write_text(json.dumps(values))
    command = ["--results", str(results), "--fewer", str(fewer), "--out", str(tmp_path)]
    subprocess.run(
        [sys.executable, str(QUALITY / "page.py"), *command], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    text = (tmp_path / "quality.md").read_text()
    assert "4 x 0.8: FID in seed 1" in text
    assert "- 4 steps hold in 0 of 1 settings, not in: flow, 1 step; joint." in text
    assert "6.00 ± 0.14 (x 0.8)" in text
    assert "Planned and not run:\n\n- raw gradient of `logit`: flow, 1 step; joint (seed 0, 1)\n" in text
    assert "quality_fewer.png" in text
    assert 0 < (tmp_path / "quality_fewer.png").stat().st_size < 150_000
