"""Presets of `jboost train`: the values that differ from the defaults of `jboost.trainer.config.TrainConfig`.

**paper-rn50, paper-wrn50-2** follow sections 3.1.1 and 4.1 of arXiv 2405.16260: ImageNet at 64x64, fine-tuned from an
L2-robust backbone (give it with ``--init``) whose head is initialised anew. Real images are attacked by 4 steps of 0.25
within an L2 ball of 1.0, generated images by steps of 0.1 within a ball of 10, with one more step every 1,000
iterations. The paper does not give the other values. They follow the field's custom for fine-tuning robust ImageNet
models: SGD with momentum 0.9 and weight decay 1e-4, a learning rate of 0.01 with cosine decay, 128 real and 128
generated images per step, bf16, flips. The generated attack starts at one step, and 30,000 iterations bring it to 30,
near the 35 steps of boosting in table 5. Nobody has trained with these two presets yet.

**released-rn50, released-wrn50-2** take the values of the training script that the authors released: Adam with a
learning rate of 1e-5, times 0.1 at iteration 4,000, no weight decay, gradients clipped to 1; the generated attack
starts at 5 steps of 0.1 and gains one every 1,000 iterations, within a ball of 100; the real attack takes 2 steps of 0.5
from a random start within a ball of 1. Real images are resized to 256 pixels by their shorter side, cropped at random to
224, mirrored, rotated by any angle, and mirrored top to bottom; generated ones keep their own size. A step takes 128 of
each. The script keeps a checkpoint every 100 iterations, and its sampler loads that of iteration 1,000, so the presets
keep that one. These values are ours: 5,000 iterations (the fall at 4,000 and a thousand after it), float32 (the script
trains in float16 mixed precision, on GPUs alone), and everything about validation. docs/train.md says what of the
released script cannot be followed. Nobody has trained with these two presets yet.

**digits**: scikit-learn's handwritten digits, enlarged to 16x16; 200 iterations, under a minute on two cores. The
paper's radius of 1.0 is for 64x64 colour images. These images have 1/48 as many values, and an attack of radius 0.5
does not change which digit they show.

**fashion-mnist**: 28x28 grey; 600 iterations of a 24-channel ResNet. Its generated attack starts at two steps and gains
one every fifty iterations, because the run is too short to gain one every thousand.
"""

from __future__ import annotations

from typing import Any

from jboost.engine.errors import BadInputError

from .dat_presets import DAT_PRESETS

_PAPER: dict[str, Any] = {
    "resolution": 64,
    "channels": 3,
    "reset_head": True,
    "flip": True,
    "iterations": 30_000,
    "batch_size": 128,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "weight_decay": 1e-4,
    "warmup": 500,
    "dtype": "bf16",
    "held_out": 1000,
    "validate_every": 1000,
    "save_every": 500,
    "boost_steps": 25,
    "boost_step_size": 0.1,
}

#: The iteration whose weights the released sampler loads.
_RELEASED_SAMPLES = 1000

_RELEASED: dict[str, Any] = {
    "resolution": 224,
    "channels": 3,
    "reset_head": True,
    "real_resize": 256,
    "real_crop": True,
    "real_flip": True,
    "real_rotation": 180.0,
    "real_vertical_flip": True,
    "generated_size": "own",
    "real_steps": 2,
    "real_step_size": 0.5,
    "real_eps": 1.0,
    "real_start": 1.0,
    "generated_steps": 5,
    "generated_step_size": 0.1,
    "generated_eps": 100.0,
    "grow_every": 1000,
    "iterations": 5000,
    "batch_size": 128,
    "optimizer": "adam",
    "learning_rate": 1e-5,
    "weight_decay": 0.0,
    "schedule": "step",
    "milestones": (4000,),
    "gamma": 0.1,
    "clip": 1.0,
    "held_out": 1000,
    "validate_every": 1000,
    "save_every": 500,
    "keep_at": (_RELEASED_SAMPLES,),
    "boost_steps": 25,
    "boost_step_size": 0.1,
}

#: Values by preset and key.
PRESETS: dict[str, dict[str, Any]] = {
    "paper-rn50": {**_PAPER, "arch": "resnet50"},
    "paper-wrn50-2": {**_PAPER, "arch": "wide_resnet50_2"},
    "released-rn50": {**_RELEASED, "arch": "resnet50"},
    "released-wrn50-2": {**_RELEASED, "arch": "wide_resnet50_2"},
    "digits": {
        "arch": "small_resnet",
        "normalize": "0.3/0.35",
        "channels": 1,
        "iterations": 200,
        "batch_size": 48,
        "learning_rate": 2e-3,
        "warmup": 10,
        "real_step_size": 0.125,
        "real_eps": 0.5,
        "generated_steps": 5,
        "grow_every": 25,
        "held_out": 100,
        "validate_every": 100,
        "save_every": 100,
        "boost_steps": 15,
        "boost_step_size": 0.1,
    },
    "fashion-mnist": {
        "arch": "small_resnet",
        "normalize": "0.286/0.353",
        "channels": 1,
        "iterations": 600,
        "batch_size": 64,
        "learning_rate": 2e-3,
        "warmup": 30,
        "generated_steps": 2,
        "grow_every": 50,
        "held_out": 500,
        "validate_every": 200,
        "save_every": 100,
        "boost_steps": 20,
        "boost_step_size": 0.2,
    },
}


def find_preset(name: str | None) -> dict[str, Any]:
    """The values of a preset; an empty dict for None.

    Raises:
        BadInputError: an unknown name.
    """
    if name is None:
        return {}
    if name not in PRESETS:
        raise BadInputError(f"unknown preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


def preset_remarks(name: str | None, *, init: str | None, keep_at: tuple[int, ...], iterations: int) -> list[str]:
    """What a user of a preset should know before training, one sentence each.

    Args:
        name: the preset; None: none.
        init: the checkpoint that training starts from; None: random weights.
        keep_at: iterations whose checkpoints are kept.
        iterations: number of iterations of the run.
    """
    remarks, values = [], PRESETS.get(name or "", {})
    if init is None and values.get("reset_head"):
        remarks.append(
            f"{name} fine-tunes a robust backbone, and this run starts from random weights; give one with --init"
        )
    if name in ("released-rn50", "released-wrn50-2") and _RELEASED_SAMPLES in keep_at:
        remarks.append(
            f"the released sampler loads the weights of iteration {_RELEASED_SAMPLES:,}; this run keeps them as "
            f"{_RELEASED_SAMPLES:06d}.safetensors"
        )
    own = set(keep_at).difference(values.get("keep_at", ()))
    if not own and (late := [kept for kept in values.get("keep_at", ()) if kept > iterations]):
        remarks.append(f"this run ends before iteration {late[0]:,}, whose weights {name} keeps")
    return remarks


PRESETS |= DAT_PRESETS
