"""The configuration: its layers, its checks, its schedules, its presets."""

from __future__ import annotations

import inspect
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jboost.cli.train import train as command
from jboost.engine.errors import BadInputError
from jboost.engine.method.updates import PGD
from jboost.trainer.config import TrainConfig, read_config, resolve_config, save_config
from jboost.trainer.presets import PRESETS
from jboost.trainer.schedule import learning_rate_at

PATHS = {"real": "r", "generated": ["g"]}


def test_flags_win_over_a_file_over_a_preset_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('iterations = 77\nwarmup = 7\nmilestones = [3, 5]\nreal = "from file"\ngenerated = ["a", "b"]\n')
    config = resolve_config({"warmup": 9, "iterations": None, "generated": ()}, file=file, preset="fashion-mnist")
    assert config.warmup == 9
    assert (config.iterations, config.milestones, config.generated) == (77, (3, 5), ("a", "b"))
    assert config.normalize == "0.286/0.353"
    assert config.weight_decay == 1e-4
    assert config.preset == "fashion-mnist"


def test_a_file_may_name_the_preset_and_a_stored_run_takes_the_place_of_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"preset": "digits", **PATHS}))
    config = resolve_config({}, file=file)
    assert (config.preset, config.iterations) == ("digits", 200)
    assert resolve_config({}, stored=config.model_dump()) == config
    assert resolve_config({"log_every": 3}, stored=config.model_dump()).log_every == 3


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_holds_and_comes_back_from_its_file(preset: str, tmp_path: Path) -> None:
    config = resolve_config(PATHS, preset=preset)
    save_config(tmp_path / "config.json", config)
    assert TrainConfig(**read_config(tmp_path / "config.json")) == config


@pytest.mark.parametrize("preset", ["paper-rn50", "paper-wrn50-2"])
def test_the_paper_presets_attack_as_section_4_1_says(preset: str) -> None:
    config = resolve_config(PATHS, preset=preset)
    attacks = config.adversarial
    assert attacks.real_attack == PGD(steps=4, step_size=0.25, eps=1.0)
    assert (attacks.generated_attack.step_size, attacks.generated_attack.eps) == (0.1, 10.0)
    assert attacks.attack_at(5000).steps == attacks.attack_at(0).steps + 5
    assert config.resolution == 64
    assert config.arch == {"paper-rn50": "resnet50", "paper-wrn50-2": "wide_resnet50_2"}[preset]


def test_every_value_has_a_flag_of_its_name() -> None:
    flags = set(inspect.signature(command).parameters) - {"output", "config", "resume", "trust_code", "debug"}
    assert flags == set(TrainConfig.model_fields)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"batch_size": 0}, "--batch-size must be greater than or equal to 1, got 0"),
        ({"learning_rate": float("nan")}, "--learning-rate must be"),
        ({"label_smoothing": 1.0}, "--label-smoothing must be less than 1, got 1.0"),
        ({"score": "margin"}, "--score must be 'logit' or 'energy', got 'margin'"),
        ({"schedule": "step"}, "needs --milestones"),
        ({"accumulate": 3}, "cannot be split into --accumulate 3"),
        ({"generated_weights": (1.0, 2.0)}, "2 generated weights for 1 sample sets"),
        ({"log_with": "mlflow"}, "unknown tracker 'mlflow'"),
        ({"warmup": 10_000}, "takes up all 10000 iterations"),
        ({"bce_real": 0, "bce_generated": 0, "ce_real": 0, "ce_generated": 0}, "all loss weights are 0"),
        ({"real": None}, "no real images are given; give --real PATH"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_flag(flags: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        resolve_config({**PATHS, **flags})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.toml", "itertions = 3", "unknown key 'itertions'; did you mean 'iterations'?"),
        ("c.toml", "iterations = -3", "c.toml: iterations must be greater than or equal to 1, got -3"),
        ("c.toml", "iterations 3", "c.toml is not TOML"),
        ("c.json", "{", "c.json is not JSON"),
        ("c.json", "[1]", "must hold a table of values"),
        ("c.toml", 'preset = "imagenet"', "unknown preset 'imagenet'; choose one of paper-rn50"),
    ],
)
def test_a_file_that_cannot_be_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(BadInputError) as caught:
        resolve_config(PATHS, file=file)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_flag_mends_what_the_file_says_wrongly(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("iterations = -3")
    assert resolve_config({**PATHS, "iterations": 5}, file=file).iterations == 5
    with pytest.raises(BadInputError, match="--iterations must be"):
        resolve_config({**PATHS, "iterations": 0}, file=file)


# --- schedules -------------------------------------------------------------------------------------------------------------------


@given(iterations=st.integers(2, 500), warmup=st.integers(0, 100), peak=st.floats(1e-6, 10))
def test_the_cosine_rises_to_its_peak_and_falls_to_zero(iterations: int, warmup: int, peak: float) -> None:
    warmup = min(warmup, iterations - 1)
    rates = [learning_rate_at(i, peak=peak, iterations=iterations, warmup=warmup) for i in range(iterations + 1)]
    assert rates[warmup] == peak
    assert max(rates) == pytest.approx(peak)
    assert rates[iterations] == pytest.approx(0, abs=1e-9 * peak)
    for i in range(warmup):
        assert rates[i] == pytest.approx(peak * (i + 1) / warmup)
    assert all(b <= a for a, b in pairwise(rates[warmup:]))


def test_the_step_schedule_falls_at_its_milestones() -> None:
    rates = [
        learning_rate_at(i, peak=1.0, iterations=9, schedule="step", warmup=2, milestones=(4, 6), gamma=0.5)
        for i in range(9)
    ]
    assert rates == [0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert learning_rate_at(7, peak=2.0, iterations=9, schedule="constant") == 2.0
