"""The presets of dual adversarial training against tables typed by hand from the authors' repository, xuwangyin/DAT."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from jboost.engine.errors import BadInputError
from jboost.engine.method.updates import PGD
from jboost.trainer.adversarial import AdversarialConfig
from jboost.trainer.config import TrainConfig, resolve_config, save_config
from jboost.trainer.growth import AttackLength

# experiments/cifar10/cifar10_conditional_..._logsumexp_seed2_aucth0.7_maxsteps100_imglogsteps35.yaml, which
# model_configs/cifar10-dat-WideResNet34x10-T50.yaml names; fid_num_steps is of the latter.
CIFAR10 = {
    "model.model_type": "WideResNet34x10",
    "attack.start_step": 0,
    "attack.max_steps": 100,
    "attack.step_size": 0.1,
    "attack.eps": math.inf,
    "indist_attack_clf.max_steps": 10,
    "indist_attack_clf.step_size": 0.1,
    "indist_attack_clf.eps": 0.5,
    "model.use_batchnorm": False,
    "image_log.step_size": 0.2,
    "fid_num_steps": 35,
    "optimizer": "sgd",
    "wd": 0.0005,
    "lr": 0.001,
    "fixed_lr": True,
    "batch_size": 128,
    "AUC_th": 0.7,
    "min_imgs_per_threshold": 1000,
    "n_imgs_per_evaluation_log": 50000,
    "augm_type_generation": "original",  # rebm/training/data.py: crops of the image padded by 4, and flips
    "use_ema": True,
    "logsumexp": True,
    "logsumexp_sampling": False,  # the default in rebm/training/config_classes.py
}

# experiments/imagenet/imagenet_indistonly_joint_resnet50_..._stepsize2.0_ema_imglogsteps15_sweepsamples2560_300K.yaml with
# AUC_th=0.4, data.image_size=256 and attack.max_steps=30, as model_configs/imagenet-dat-ResNet50ImageNet-T30-256x256.yaml says.
IMAGENET256 = {
    "model.model_type": "ResNet50ImageNet",
    "data.image_size": 256,
    "attack.start_step": 0,
    "attack.max_steps": 30,
    "attack.step_size": 2.0,
    "attack.eps": math.inf,
    "indist_attack_clf.max_steps": 3,
    "indist_attack_clf.step_size": 2.0,
    "indist_attack_clf.eps": 3.0,
    "model.use_batchnorm": False,
    "image_log.step_size": 8,
    "fid_num_steps": 14,
    "optimizer": "sgd",
    "wd": 0.0005,
    "lr": 0.001,
    "fixed_lr": True,
    "batch_size": 512,
    "AUC_th": 0.4,
    "min_imgs_per_threshold": 1000,
    "n_imgs_per_evaluation_log": 50000,
    "augm_type_generation": "generation_id",  # the middle of the image resized to 256, and flips
    "use_ema": True,
    "logsumexp": True,
    "logsumexp_sampling": False,
}

#: Values by the code rather than by a configuration, for both.
CODE = {
    "momentum": 0.9,  # rebm/training/modeling.py, get_optimizer
    "nesterov": True,
    "ema_decay": 0.999,  # rebm/training/train.py; average_model.py: decay min(0.999, (1 + n) / (10 + n))
    "random_start": False,  # rebm/training/metrics.py: neither attack has one
}


def table(config: TrainConfig) -> dict[str, Any]:
    """The resolved values under the names of the authors' files."""
    attack, real = config.adversarial.generated_attack, config.adversarial.real_attack
    return {
        "model.model_type": {"wrn_34_10": "WideResNet34x10", "resnet50": "ResNet50ImageNet"}[config.arch or ""],
        "data.image_size": config.resolution,
        "attack.start_step": attack.steps,
        "attack.max_steps": config.adversarial.max_steps,
        "attack.step_size": attack.step_size,
        "attack.eps": attack.strengths().radius,
        "indist_attack_clf.max_steps": real.steps,
        "indist_attack_clf.step_size": real.step_size,
        "indist_attack_clf.eps": real.eps,
        "model.use_batchnorm": config.batch_norm == "train",
        "image_log.step_size": config.boost_step_size,
        "fid_num_steps": config.boost_steps,
        "optimizer": config.optimizer,
        "wd": config.weight_decay,
        "lr": config.learning_rate,
        "fixed_lr": config.schedule == "constant" and config.warmup == 0,
        "batch_size": config.batch_size,
        "AUC_th": config.grow_auc,
        "min_imgs_per_threshold": config.grow_images,
        "n_imgs_per_evaluation_log": round(config.validate_every * config.batch_size, -3),
        "augm_type_generation": {4: "original", 0: "generation_id"}[config.crop_padding] if config.flip else None,
        "use_ema": config.ema > 0,
        "logsumexp": config.score == "energy",
        "logsumexp_sampling": config.attack_score == "energy",
        "momentum": config.momentum,
        "nesterov": config.nesterov,
        "ema_decay": config.ema if config.ema_warmup else None,
        "random_start": False,  # the trainer's attacks have none unless they are told to
    }


@pytest.mark.parametrize(
    ("preset", "source"),
    [("dat-cifar10", CIFAR10 | {"data.image_size": 32} | CODE), ("dat-imagenet256", IMAGENET256 | CODE)],
)
def test_the_values_are_those_of_the_authors_files(preset: str, source: dict[str, Any]) -> None:
    assert table(resolve_config({"real": "r", "generated": ["g"]}, preset=preset)) == source


@pytest.mark.parametrize("preset", ["dat-cifar10", "dat-imagenet256"])
def test_the_loss_is_that_of_the_authors_code(preset: str) -> None:
    """rebm/training/metrics.py: one BCE mean over real and attacked images, plus the CE of attacked real ones."""
    config = resolve_config({"real": "r", "generated": ["g"]}, preset=preset).adversarial
    attacked, clean = config.weights, config.clean_weights
    assert (attacked.bce_real, attacked.bce_generated, attacked.ce_real, attacked.ce_generated) == (0.0, 0.5, 1.0, 0.0)
    assert (clean.bce_real, clean.bce_generated, clean.ce_real, clean.ce_generated) == (0.5, 0.0, 0.0, 0.0)
    assert config.real_attack_loss == "ce"
    assert (config.label_smoothing, config.stop_at_pair) == (0.0, False)
    score = torch.randn(16, dtype=torch.float64)
    target = torch.tensor([1.0] * 8 + [0.0] * 8, dtype=torch.float64)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(score, target)
    ours = 0.5 * torch.nn.functional.softplus(-score[:8]).mean() + 0.5 * torch.nn.functional.softplus(score[8:]).mean()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("preset", "batches"), [("dat-cifar10", 8), ("dat-imagenet256", 2)])
def test_the_area_is_averaged_over_as_many_batches(preset: str, batches: int) -> None:
    """ceil(1000 / batch size), then one more step, and another such average before the next."""
    config = resolve_config({"real": "r", "generated": ["g"]}, preset=preset)
    length = AttackLength(config.adversarial, config.batch_size)
    steps = []
    for i in range(2 * batches + 1):
        steps.append(length.at(i))
        length.see(config.grow_auc or 0.0)  # just reached
    assert steps == [0] * batches + [1] * batches + [2]


def test_validation_attacks_with_the_largest_number_of_steps_and_samples_by_the_class_logit() -> None:
    config = resolve_config({"real": "r", "generated": ["g"]}, preset="dat-imagenet256")
    assert config.adversarial.validation_steps(config.iterations) == 30
    assert (config.boost_objective, config.generated_labels) == ("logit", "paired")
    assert AdversarialConfig(generated_attack=PGD(steps=2), grow_every=10).validation_steps(30) == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"grow_every": 5, "grow_auc": 0.5}, "--grow-every and --grow-auc are two rules of growth; give one"),
        ({"generated_steps": 101}, "starts at 101 steps, above its limit of 100"),
        ({"grow_auc": 1.5}, "--grow-auc must be less than or equal to 1, got 1.5"),
        ({"generated_max_steps": 0}, "--grow-auc cannot add a step: the attack on generated images starts at 0 steps"),
        ({"generated_steps": 9, "generated_max_steps": 9}, "at 9 steps, its limit; raise --generated-max-steps"),
        ({"generated_stop": "pair"}, "give --generated-stop never"),
        ({"momentum": 0.0}, "--nesterov needs a --momentum above 0"),
        ({"generated_eps": math.nan}, "--generated-eps must be a finite number"),
        ({"real_eps": math.inf}, "--real-eps must be a finite number"),
        ({"attack_score": "margin"}, "--attack-score must be 'logit' or 'energy'"),
    ],
)
def test_values_that_do_not_fit_are_named(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        resolve_config({"real": "r", "generated": ["g"], **flags}, preset="dat-cifar10")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_growth_by_auc_needs_a_limit() -> None:
    with pytest.raises(BadInputError, match="--grow-auc needs --generated-max-steps"):
        resolve_config({"real": "r", "generated": ["g"], "grow_auc": 0.5, "generated_stop": "never"})


def test_a_rule_of_growth_replaces_the_one_below_it(tmp_path: Path) -> None:
    """A flag's that of a file, a file's that of a preset; a run's own file, which names both, comes back as it was."""
    paths = {"real": "r", "generated": ["g"]}
    file = tmp_path / "c.toml"
    file.write_text("grow_every = 7\n")
    assert resolve_config({**paths, "grow_every": 9}, preset="dat-cifar10").grow_auc is None
    assert resolve_config(paths, file=file, preset="dat-cifar10").grow_auc is None
    assert resolve_config({**paths, "grow_auc": 0.5}, file=file, preset="dat-cifar10").grow_auc == 0.5
    config = resolve_config(paths, preset="dat-cifar10")
    save_config(tmp_path / "config.json", config)
    assert resolve_config({}, file=tmp_path / "config.json") == config
    assert resolve_config({}, stored=config.model_dump()) == config
