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
    file.write_text('iterations = 77\nwarmup = 7\nheld_out = 9\nreal = "from file"\ngenerated = ["a", "b"]\n')
    config = resolve_config({"warmup": 9, "iterations": None, "generated": ()}, file=file, preset="fashion-mnist")
    assert config.warmup == 9
    assert (config.iterations, config.held_out, config.generated) == (77, 9, ("a", "b"))
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
        ("c.toml", "keep_at = 1", "c.toml: keep_at must be a list of whole numbers, e.g. [1000, 4000], got 1"),
        ("c.toml", "milestones = 3", "c.toml: milestones must be a list of whole numbers, e.g. [300, 450], got 3"),
        ("c.json", '{"generated_weights": 2}', "generated_weights must be a list of numbers, e.g. [2, 1], got 2"),
        (
            "c.toml",
            "momentum = 0.8",
            "c.toml: momentum has no effect with --optimizer adamw; give --optimizer sgd, or leave momentum out",
        ),
        ("c.toml", "reset_head = true", "c.toml: reset_head has no effect without --init; give --init, or leave"),
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


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"grow_images": 500}, "--grow-images has no effect without --grow-auc; give --grow-auc, e.g. 0.7, or leave"),
        (
            {"ema_warmup": True},
            "--ema-warmup has no effect without --ema; give --ema, e.g. 0.999, or leave --ema-warmup out",
        ),
        ({"nesterov": True}, "--nesterov has no effect with --optimizer adamw; give --optimizer sgd, or"),
        ({"momentum": 0.9}, "--momentum has no effect with --optimizer adamw; give --optimizer sgd, or"),
        ({"momentum": 0.9, "optimizer": "adam"}, "--momentum has no effect with --optimizer adam; give"),
        ({"milestones": (3,)}, "--milestones has no effect with --schedule cosine; give --schedule step, or leave"),
        (
            {"gamma": 0.5, "schedule": "constant"},
            "--gamma has no effect with --schedule constant; give --schedule step",
        ),
        ({"reset_head": True}, "--reset-head has no effect without --init; give --init, or leave --reset-head out"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(flags: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        resolve_config({**PATHS, **flags})
    assert str(caught.value).startswith(message)


def test_an_option_that_has_its_effect_or_is_off_is_taken(tmp_path: Path) -> None:
    effects = {
        "grow_auc": 0.5, "grow_images": 9, "generated_stop": "never", "generated_max_steps": 3, "ema": 0.9,
        "ema_warmup": True, "optimizer": "sgd", "momentum": 0.8, "nesterov": True, "schedule": "step", "milestones": (3,),
        "gamma": 0.2, "init": "a.pt", "reset_head": True,
    }  # fmt: skip
    config = resolve_config({**PATHS, **effects})
    assert {name: getattr(config, name) for name in effects} == effects
    resolve_config({**PATHS, "nesterov": False, "ema_warmup": False, "reset_head": False})
    # A run's file, with flags that switch off what it sets; and the file of that run in turn.
    save_config(tmp_path / "one.json", config)
    off = {"grow_every": 7, "ema": 0.0, "optimizer": "adamw", "schedule": "cosine"}
    other = resolve_config(off, file=tmp_path / "one.json")
    assert (other.grow_images, other.momentum, other.nesterov, other.milestones) == (1000, 0.9, False, ())
    save_config(tmp_path / "two.json", other)
    assert resolve_config({}, file=tmp_path / "two.json") == other
    assert resolve_config(off, file=tmp_path / "one.json", stored=other.model_dump()) == other
    # What a preset sets is not the user's.
    assert resolve_config({**PATHS, "schedule": "constant", "optimizer": "adamw"}, preset="released-rn50").gamma == 0.1
    assert resolve_config({**PATHS, "grow_every": 7, "ema": 0.0}, preset="dat-cifar10").ema_warmup


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
