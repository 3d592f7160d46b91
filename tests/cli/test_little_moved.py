"""A run that moved its images by less than a grey level in the mean says why, and what it says to raise is right."""

from __future__ import annotations

import logging
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shard_cases import ENGINE, jboost_in_child, make_shards

import jboost as api
from jboost.engine.method.updates import PGD, SGLD
from jboost.engine.results.moved import why_little_moved

LITTLE = "which is little: "
VALUES = 16 * 16 * 3
EAGER = ("--engine", "eager", "--device", "cpu", "--trust-code")
#: A loss whose gradient is zero at every image of the tests' model.
DEAD = (
    "import torch\n\n\ndef dead(logits, labels, l0):\n    return torch.relu(logits.amax(1) - 1e4) + 0 * logits.sum(1)\n"
)


def run(tmp_path: Path, bundle: Path, samples: Path, options: dict[str, Any]) -> str:
    words = [word for name, value in options.items() for word in ((name,) if value is None else (name, value))]
    engine = ENGINE if "--engine" not in options else ()
    ran = jboost_in_child(
        tmp_path, "boost", samples, "--bundle", bundle, *engine, *words, "-o", "out.npz", "--json", "s.json"
    )
    assert ran.code == 0, ran.said
    return ran.said


def remedy(said: str) -> dict[str, Any]:
    """The options that a warning says to give, with the value behind each."""
    (line,) = [line for line in said.splitlines() if LITTLE in line]
    flags = re.findall(r"(--[a-z0-9-]+)(?: (auto|logit|[\d.e+-]*\d))?(?= |,|;|$)(?! \()", line.partition(LITTLE)[2])
    return {flag: value or None for flag, value in flags if value or flag.startswith("--no-")}


CASES = {
    "sgld with a small gradient": ({"--update": "sgld", "--step-size": 1e-6}, {"--step-size": "auto"}),
    "one step of sgld": ({"--update": "sgld", "--step-size": 1e-6, "--steps": 1}, {"--step-size": "auto", "--first-step": "3"}),
    "a short first step": (
        {"--update": "sgld", "--step-size": "auto", "--first-step": 0.01, "--steps": 4}, {"--first-step": "0.75"},
    ),
    "short steps": ({"--step-size": 0.001}, {"--step-size": "0.022"}),
    "short steps in linf": ({"--step-size": 1e-5, "--norm": "linf"}, {"--step-size": "0.00078"}),
    "one step": ({"--step-size": 0.05, "--steps": 1}, {"--step-size": "0.33"}),
    "a ball that the steps do not reach": ({"--step-size": 0.001, "--eps": 2}, {"--step-size": "0.022"}),
    "images that have reached l0": (
        {"--engine": "eager", "--objective": "bce", "--l0": 0, "--early-stop": None}, {"--no-early-stop": None},
    ),
    "a gradient of zero": (
        {"--engine": "eager", "--trust-code": None, "--objective": "dead.py:dead"}, {"--objective": "logit"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_following_what_it_says_moves_the_images(bundle, samples, tmp_path, case) -> None:
    options, want = CASES[case]
    (tmp_path / "dead.py").write_text(DEAD)
    found = remedy(run(tmp_path, bundle, samples, options))
    assert found == want
    if "--no-early-stop" in want:
        options = {name: value for name, value in options.items() if name != "--early-stop"}
    assert LITTLE not in run(tmp_path, bundle, samples, options | found)


@pytest.mark.parametrize(
    "options",
    [
        {"--steps": 15, "--step-size": 0.1, "--eps": 0.02},  # a fifth of a level in the mean, which the user asked for
        {
            "--steps": 15,
            "--step-size": 0.01,
            "--eps": 0.003,
            "--norm": "linf",
        },  # no level at all, of which another line speaks
        {"--steps": 0},
        {},
    ],
)
def test_what_the_user_bounded_and_what_moved_is_not_spoken_of(bundle, samples, tmp_path, options) -> None:
    assert LITTLE not in run(tmp_path, bundle, samples, options)


def test_every_way_to_run_says_it(bundle, samples, images, labels, jboost, tmp_path, caplog) -> None:
    slow = ("--steps", 2, "--step-size", 0.001)
    wanted = r"moved its images by \S+ grey levels \(RMS\) in the mean, which is little: raise --steps \(2 now\)"
    one = jboost("boost", samples, "--bundle", bundle, *ENGINE, *slow, "--run", "run.npz", cwd=tmp_path)
    assert len(re.findall(wanted, one.stderr)) == 1, one.stderr
    page = jboost("report", "run.npz", "-o", "page.html", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    assert re.search(wanted, (tmp_path / "page.html").read_text())
    shards = make_shards(tmp_path / "in", "npz", images, labels)
    many = jboost(
        "boost", shards, "--bundle", bundle, *ENGINE, *slow, "-o", "out", "--devices", "cpu,cpu", cwd=tmp_path
    )
    assert len(re.findall(wanted, many.stderr)) == 1, many.stderr
    assert len(re.findall(wanted, jboost_in_child(tmp_path, "merge", "out").said)) == 1
    with caplog.at_level(logging.WARNING, "jboost"), api.load(bundle, engine="onnx", device="cpu") as booster:
        booster.boost(images, labels, PGD(2, 0.001))
        assert len(re.findall(wanted, caplog.text)) == 1
        list(booster.boost_iter([(images[:9], labels[:9]), (images[9:], labels[9:])], PGD(2, 0.001)))
        assert len(re.findall(wanted, caplog.text)) == 2
        list(booster.boost_iter([(images, labels)], SGLD(2, 1e-6)))  # a stream refuses --step-size auto
        assert "short for this model; boost some of its images first" in caplog.text
        booster.boost(images, labels, PGD(8, 0.1))
        list(booster.boost_iter([(images, labels)], PGD(8, 0.1)))
        assert len(re.findall(wanted, caplog.text)) == 2


def summary(**changed: Any) -> dict[str, Any]:
    """A run of 100 images that moved by half a grey level."""
    plain = {
        "images": 100, "steps": 15, "steps_used": 15.0, "stopped_early": 0, "early_stop": True, "unchanged_after_failure": 0,
        "l2_moved": 0.5 / 255 * math.sqrt(VALUES), "update": "pgd", "step_size": 0.001, "eps": None, "norm": "l2", "noise": None,
        "objective": "joint", "first_step": None, "straightness": None, "rounding": "nearest",
    }  # fmt: skip
    return plain | changed


NOISE = {"update": "sgld", "norm": None, "noise": 0.01}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "moved its images by 0.5 grey levels"),
        ({"l2_moved": 1.01 / 255 * math.sqrt(VALUES)}, None),
        ({"l2_moved": math.nan}, None),
        ({"steps": 0}, None),
        ({"images": 0}, None),
        ({"unchanged_after_failure": 100}, None),
        ({"unchanged_after_failure": 51}, None),
        # 0.8 levels of all images are 1.07 of those that could move
        ({"unchanged_after_failure": 25, "l2_moved": 0.8 / 255 * math.sqrt(VALUES)}, None),
        ({"stopped_early": 50}, "50 of 100 images had reached l0"),
        ({"stopped_early": 49}, "raise --steps"),
        ({"first_step": 0.1}, "raise --steps (15 now), or --first-step (0.1 now): --first-step 0.2"),
        ({"straightness": 0.8}, "raise --steps (15 now) or --step-size (auto now, 0.001): --step-size 0.022"),
        ({"eps": 0.01, "step_size": 0.1}, None),
        ({"eps": 0.1, "step_size": 0.1}, None),  # its bound is 0.92 levels
        ({"eps": 0.1, "step_size": 0.001}, "raise --steps"),  # 15 steps do not reach it
        ({"eps": 0.2, "step_size": 0.1, "l2_moved": 0.9 / 255 * math.sqrt(VALUES)}, "raise --steps"),
        ({"eps": 0.2, "step_size": 0.1, "l2_moved": 0.95 / 255 * math.sqrt(VALUES)}, None),
        ({"eps": 2 / 255, "norm": "linf", "step_size": 0.1}, "raise --steps"),
        ({"eps": 1 / 255, "norm": "linf", "step_size": 0.1}, None),
        ({"update": "other", "norm": None}, "raise --steps (15 now) or --step-size (0.001 now)"),
        (
            {"update": "sgld", "norm": None},
            "0.001 x the gradient, which is short for this model; give --step-size auto",
        ),
        # 15 steps of noise alone, and half a level beside them
        (NOISE | {"l2_moved": 0.01 * math.sqrt(15 * VALUES)}, "which is short for this model"),
        (
            NOISE | {"l2_moved": math.sqrt((15 * 0.01**2 + (0.5 / 255) ** 2) * VALUES)},
            "moved its images by 0.5 grey levels",
        ),
        (NOISE | {"l2_moved": math.sqrt((15 * 0.01**2 + (1.1 / 255) ** 2) * VALUES)}, None),
        # Cut off fractions are 0.58 levels.
        ({"rounding": "floor", "l2_moved": 1.1 / 255 * math.sqrt(VALUES)}, "moved its images by 0.94 grey levels"),
        ({"l2_moved": 0.0, "step_size": 0.1}, "the gradient of objective joint is zero"),
        ({"l2_moved": 0.0, "step_size": 0.1, "objective": "logit"}, "give another one: --objective energy"),
        ({"l2_moved": 0.0}, "raise --steps"),
    ],
)
def test_what_it_says(changed, said) -> None:
    got = why_little_moved(summary(**changed), VALUES)
    assert (got is None) if said is None else (got is not None and said in got)
    assert got is None or "\n" not in got


def test_the_measure_is_the_root_mean_square_in_grey_levels(bundle, images, labels, caplog) -> None:
    with caplog.at_level(logging.WARNING, "jboost"), api.load(bundle, engine="onnx", device="cpu") as booster:
        made = booster.boost(images, labels, PGD(3, 0.025), early_stop=False).images.astype(float)
    want = np.sqrt(((made - images) ** 2).mean((1, 2, 3))).mean()
    assert 0.1 < want < 1
    assert f"moved its images by {want:.2g} grey levels" in caplog.text
