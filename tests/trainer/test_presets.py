"""The resolved values of the paper's and the released script's presets, against tables typed from the sources."""

from __future__ import annotations

import pytest

from jboost.engine.errors import BadInputError
from jboost.engine.method.updates import PGD
from jboost.trainer.config import TrainConfig, resolve_config
from jboost.trainer.presets import preset_remarks

PATHS = {"real": "r", "generated": ["g"]}

# Arxiv 2405.16260, section 4.1 and section 3.1.1 (the head): everything that it states.
PAPER = {
    "resolution": 64,
    "reset_head": True,
    "score": "logit",
    "real_attack_loss": "bce",
    "bce_real": 1.0,
    "bce_generated": 1.0,
    "ce_real": 1.0,
    "ce_generated": 1.0,
    "real_steps": 4,
    "real_step_size": 0.25,
    "real_eps": 1.0,
    "real_start": 0.0,
    "generated_step_size": 0.1,
    "generated_eps": 10.0,
    "grow_every": 1000,
}
# What the paper does not give: the field's custom, as jboost.trainer.presets names it.
CUSTOM = {
    "channels": 3,
    "flip": True,
    "generated_steps": 1,
    "iterations": 30_000,
    "batch_size": 128,
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.01,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warmup": 500,
    "dtype": "bf16",
    "held_out": 1000,
    "validate_every": 1000,
    "save_every": 500,
    "boost_steps": 25,
    "boost_step_size": 0.1,
}
# The released scripts `train` and `data`.
RELEASED = {
    "optimizer": "adam",
    "learning_rate": 1e-5,
    "weight_decay": 0.0,
    "schedule": "step",
    "milestones": (4000,),
    "gamma": 0.1,
    "warmup": 0,
    "clip": 1.0,
    "generated_steps": 5,
    "grow_every": 1000,
    "generated_step_size": 0.1,
    "generated_eps": 100.0,
    "real_steps": 2,
    "real_step_size": 0.5,
    "real_eps": 1.0,
    "real_start": 1.0,
    "resolution": 224,
    "real_resize": 256,
    "real_crop": True,
    "real_flip": True,
    "real_rotation": 180.0,
    "real_vertical_flip": True,
    "flip": False,
    "generated_size": "own",
    "batch_size": 128,
    "keep_at": (1000,),
    "reset_head": True,
}
# Ours, as jboost.trainer.presets names it. The script's precision is float16, on a GPU.
OURS = {
    "channels": 3,
    "iterations": 5000,
    "dtype": "fp32",
    "held_out": 1000,
    "validate_every": 1000,
    "save_every": 500,
    "boost_steps": 25,
    "boost_step_size": 0.1,
}
TABLE = {
    "paper-rn50": {**PAPER, **CUSTOM, "arch": "resnet50"},
    "paper-wrn50-2": {**PAPER, **CUSTOM, "arch": "wide_resnet50_2"},
    "released-rn50": {**RELEASED, **OURS, "arch": "resnet50"},
    "released-wrn50-2": {**RELEASED, **OURS, "arch": "wide_resnet50_2"},
}


@pytest.mark.parametrize("preset", TABLE)
def test_a_preset_is_the_table_and_the_defaults(preset: str) -> None:
    values = resolve_config(PATHS, preset=preset).model_dump()
    defaults = TrainConfig(real="r", generated=("g",)).model_dump()
    assert values == {**defaults, **TABLE[preset], "preset": preset}


@pytest.mark.parametrize("preset", ["released-rn50", "released-wrn50-2"])
def test_the_released_presets_attack_and_learn_as_the_script_does(preset: str) -> None:
    config = resolve_config(PATHS, preset=preset)
    attacks = config.adversarial
    assert attacks.real_attack == PGD(steps=2, step_size=0.5, eps=1.0)
    assert attacks.real_start == 1.0
    assert [attacks.attack_at(i).steps for i in (0, 999, 1000, 4000)] == [5, 5, 6, 9]
    assert attacks.generated_attack.eps == 100.0
    assert [config.learning_rate_at(i) for i in (0, 3999, 4000, 4999)] == pytest.approx([1e-5, 1e-5, 1e-6, 1e-6])


def test_a_flag_undoes_what_a_preset_sets() -> None:
    flags = {"reset_head": False, "real_crop": False, "real_resize": 0, "real_vertical_flip": False}
    config = resolve_config({**PATHS, **flags}, preset="released-rn50")
    assert {name: getattr(config, name) for name in flags} == flags
    assert config.real_flip
    del flags["real_resize"]
    with pytest.raises(BadInputError, match=r"--real-resize 256 is for random crops; .* or --real-resize 0 "):
        resolve_config({**PATHS, **flags}, preset="released-rn50")


def test_what_a_user_of_a_preset_should_know() -> None:
    def said(
        preset: str | None, init: str | None = "robust.pt", keep_at: tuple[int, ...] = (), last: int = 5000
    ) -> list[str]:
        return preset_remarks(preset, init=init, keep_at=keep_at, iterations=last)

    assert said("released-rn50", keep_at=(1000,)) == [
        "the released sampler loads the weights of iteration 1,000; this run keeps them as 001000.safetensors"
    ]
    assert said("released-rn50", keep_at=(4,)) == said("released-rn50", keep_at=(4,), last=5) == []
    assert said("released-rn50", last=2) == ["this run ends before iteration 1,000, whose weights released-rn50 keeps"]
    for preset in ("paper-rn50", "released-wrn50-2"):
        assert "starts from random weights; give one with --init" in said(preset, init=None)[0]
    assert said("digits", init=None) == said(None, init=None) == []


def test_a_shorter_run_drops_the_checkpoints_of_its_preset_but_not_its_users() -> None:
    def kept(**flags: object) -> tuple[int, ...]:
        return resolve_config({**PATHS, **flags}, preset="released-rn50").keep_at

    assert kept() == kept(iterations=1000) == (1000,)
    assert kept(iterations=2) == kept(keep_at=()) == ()
    assert kept(iterations=2, keep_at=(1,)) == (1,)
    with pytest.raises(
        BadInputError, match=r"--keep-at 1000 comes after the last of 2 .*give --keep-at 2 or none, or more"
    ):
        kept(iterations=2, keep_at=(1000,))
