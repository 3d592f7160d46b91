"""Presets of the methods before and after the paper's: BIGROC's notebooks, and the sampling of dual adversarial training (DAT).

BIGROC (arXiv 2108.03702, github.com/royg27/BIGRoC): steps of 1.5 eps / 7 down the cross-entropy, inside an L2 ball. Its notebooks
in CIFAR10/ hold images in [-1, 1], so their lengths are halved here, where images are in [0, 1]. Its loop projects, then clamps;
`PGD` clamps, then projects. Either stays in the ball and in the cube.

DAT (arXiv 2510.13872, github.com/xuwangyin/DAT): normalised steps up the class logit, clamped to [0, 1] after each one, without a
radius. ``fid_num_steps`` in model_configs/NAME.yaml is the number of steps; the file that ``fid_eval_config`` names has the step.
"""

from __future__ import annotations

from typing import Any


def _bigroc(about: str, eps: float, *, steps: int = 7, reach: float = 1.5, labels: str | None = None) -> dict[str, Any]:
    """Steps that reach `reach` times as far as the radius."""
    return {
        "steps": steps,
        "step_size": reach * eps / steps,
        "objective": "ce",
        "early_stop": False,
        "labels": labels,
        "options": {"eps": eps},
        "about": f"BIGROC: {about}",
    }


def _unconditional(about: str, eps: float) -> dict[str, Any]:
    return _bigroc(f"CIFAR-10, {about}", eps, steps=30, reach=1.0, labels="debiased")


def _dat(about: str, steps: int, step_size: float) -> dict[str, Any]:
    return {
        "steps": steps, "step_size": step_size, "objective": "logit", "early_stop": False, "about": f"DAT: {about}",
    }  # fmt: skip


#: The arguments of `jboost.engine.method.settings.Preset` by the preset's name.
SUCCESSORS: dict[str, dict[str, Any]] = {
    "bigroc-adm128": _bigroc("ADM-G, ImageNet 128x128", 1.5),
    "bigroc-adm256": _bigroc("ADM-G, ImageNet 256x256", 3.0),
    "bigroc-biggan128": _bigroc("BigGAN-deep, ImageNet 128x128", 5.0),
    "bigroc-biggan256": _bigroc("BigGAN-deep, ImageNet 256x256", 1.0),
    "bigroc-snresnet128": _bigroc("SN-ResNet GAN, ImageNet 128x128", 15.0),
    "bigroc-snresnet32": _bigroc("CIFAR-10, SN-ResNet GAN", 1.8),
    "bigroc-cganpd": _bigroc("CIFAR-10, cGAN-PD", 1.5),
    "bigroc-wgangp": _unconditional("WGAN-GP", 2.5),
    "bigroc-sngan": _unconditional("SNGAN", 2.5),
    "bigroc-ssgan": _unconditional("SSGAN", 1.5),
    "bigroc-infomax": _unconditional("InfoMax-GAN", 1.5),
    "dat-cifar10": _dat("CIFAR-10, WRN-34-10 trained to T = 40", 33, 0.2),
    "dat-cifar10-t50": _dat("CIFAR-10, WRN-34-10 trained to T = 50", 35, 0.2),
    "dat-cifar100": _dat("CIFAR-100, WRN-34-10 trained to T = 45", 32, 0.2),
    "dat-rn50": _dat("ImageNet 256x256, ResNet-50", 14, 8.0),
    "dat-wrn50-4": _dat("ImageNet 256x256, WRN-50-4 trained to T = 65", 19, 8.0),
    "dat-convnext-l": _dat("ImageNet 256x256, ConvNeXt-L", 24, 8.0),
}
