"""Presets of dual adversarial training (arXiv 2510.13872), with the values of the authors' code (xuwangyin/DAT).

**dat-cifar10**: WRN-34-10 on CIFAR-10, T = 50 in their table: ``model_configs/cifar10-dat-WideResNet34x10-T50.yaml`` and
the experiment it names. Their T = 40 grows at an AUC of 0.8 and stops growing at 50 steps.

**dat-imagenet256**: ResNet-50 on ImageNet at 256x256, T = 30:
``model_configs/imagenet-dat-ResNet50ImageNet-T30-256x256.yaml`` and the experiment it names. Their WRN-50-4 grows at 0.2
up to 65 steps.

Both start from a classifier that is robust already (``--init``): real images are attacked by plain adversarial training,
BatchNorm keeps its statistics, and the learning rate is constant.

Their runs have no last iteration: they keep the checkpoint of the lowest FID. The number of iterations here is ours. It is
large, and with a constant learning rate a run may be ended at any time. Validation comes every 50,000 images, as theirs.
Nobody has trained with these two presets yet.
"""

from __future__ import annotations

from typing import Any

_DAT: dict[str, Any] = {
    "channels": 3,
    "flip": True,
    "generated_labels": "paired",
    "batch_norm": "frozen",
    "score": "energy",
    "attack_score": "logit",
    "real_attack_loss": "ce",
    # Their BCE is one mean over both halves, which counts each half by 1/2; its real images are not attacked.
    "bce_real": 0.0,
    "clean_bce_real": 0.5,
    "bce_generated": 0.5,
    "ce_real": 1.0,
    "ce_generated": 0.0,
    "ema": 0.999,
    "ema_warmup": True,
    "generated_steps": 0,
    "generated_eps": "inf",
    "generated_stop": "never",
    "grow_images": 1000,
    "optimizer": "sgd",
    "learning_rate": 1e-3,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "constant",
    "boost_objective": "logit",
}

#: Values by preset and key.
DAT_PRESETS: dict[str, dict[str, Any]] = {
    "dat-cifar10": {
        **_DAT,
        "arch": "wrn_34_10",
        "resolution": 32,
        "crop_padding": 4,
        "real_steps": 10,
        "real_step_size": 0.1,
        "real_eps": 0.5,
        "generated_step_size": 0.1,
        "generated_max_steps": 100,
        "grow_auc": 0.7,
        "batch_size": 128,
        "iterations": 100_000,
        "validate_every": 391,
        "save_every": 391,
        "boost_steps": 35,
        "boost_step_size": 0.2,
    },
    "dat-imagenet256": {
        **_DAT,
        "arch": "resnet50",
        "resolution": 256,
        "real_steps": 3,
        "real_step_size": 2.0,
        "real_eps": 3.0,
        "generated_step_size": 2.0,
        "generated_max_steps": 30,
        "grow_auc": 0.4,
        "batch_size": 512,
        "iterations": 100_000,
        "validate_every": 98,
        "save_every": 98,
        "boost_steps": 14,
        "boost_step_size": 8.0,
    },
}
