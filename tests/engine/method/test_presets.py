"""Every preset's resolved settings against the numbers of its source, typed by hand."""

from __future__ import annotations

import math

import pytest

from jboost.engine.method.settings import PRESETS, find_preset, make_update, resolve_settings

PAPER = "arXiv 2405.16260, table 5"
FAST = "the paper's path, steps x step size, in fewer steps:"
RELEASED = "the released script: sigma 1e-4, step 0.2 on the mean of its batch of 100, logit, no stop"
IMAGENET = "BIGROC, ImageNet/BigROC_"
CIFAR = "BIGROC, CIFAR10/BIGRoC_"
COMPARED = "BIGROC, Comparison/BIGRoC_comparison_"
DAT = "DAT, model_configs/"

#: name: (update, steps, step size, eps, objective, early stopping, labels, source). A source that holds images in [-1, 1] has twice
#: the lengths that stand here, where images are in [0, 1].
TABLE = {
    "ct1": ("pgd", 35, 0.1, None, "joint", True, None, f"{PAPER}, CT, 1 step"),
    "ct2": ("pgd", 25, 0.1, None, "joint", True, None, f"{PAPER}, CT, 2 steps"),
    "cd1": ("pgd", 15, 0.15, None, "joint", True, None, f"{PAPER}, CD, 1 step"),
    "cd2": ("pgd", 7, 0.14, None, "joint", True, None, f"{PAPER}, CD, 2 steps"),
    "adm": ("pgd", 7, 0.14, None, "joint", True, None, f"{PAPER}, Admnet, 250 steps"),
    "biggan": ("pgd", 15, 0.1, None, "joint", True, None, f"{PAPER}, BigGAN, 1 step"),
    "iddpm": ("pgd", 7, 0.14, None, "joint", True, None, f"{PAPER}, Iddpm, 1000 steps"),
    "ct1-fast": ("pgd", 4, 3.5 / 4, None, "joint", True, None, f"{FAST} 35 x 0.1"),
    "ct2-fast": ("pgd", 4, 2.5 / 4, None, "joint", True, None, f"{FAST} 25 x 0.1"),
    "cd1-fast": ("pgd", 4, 2.25 / 4, None, "joint", True, None, f"{FAST} 15 x 0.15"),
    "cd2-fast": ("pgd", 4, 0.98 / 4, None, "joint", True, None, f"{FAST} 7 x 0.14"),
    "adm-fast": ("pgd", 4, 0.98 / 4, None, "joint", True, None, f"{FAST} 7 x 0.14"),
    "biggan-fast": ("pgd", 4, 1.5 / 4, None, "joint", True, None, f"{FAST} 15 x 0.1"),
    "iddpm-fast": ("pgd", 4, 0.98 / 4, None, "joint", True, None, f"{FAST} 7 x 0.14"),
    "released-sgld": ("sgld", 15, 0.2 / 100, None, "logit", False, None, RELEASED),
    "bigroc-adm128": ("pgd", 7, 1.5 * 1.5 / 7, 1.5, "ce", False, None, f"{IMAGENET}ADM_G_imagenet128: epsilon, steps = 1.5, 7"),
    "bigroc-adm256": ("pgd", 7, 1.5 * 3 / 7, 3.0, "ce", False, None, f"{IMAGENET}ADM_G_imagenet_256: epsilon, steps = 3, 7"),
    "bigroc-biggan128": ("pgd", 7, 1.5 * 5 / 7, 5.0, "ce", False, None, f"{IMAGENET}biggan_deep_imagenet128: 5, 7"),
    "bigroc-biggan256": ("pgd", 7, 1.5 * 1 / 7, 1.0, "ce", False, None, f"{IMAGENET}biggan_deep_imagenet_256: 1, 7"),
    "bigroc-snresnet128": ("pgd", 7, 1.5 * 15 / 7, 15.0, "ce", False, None, f"{COMPARED}imagenet: epsilon, steps = 15, 7"),
    "bigroc-snresnet32": ("pgd", 7, 1.5 * 1.8 / 7, 1.8, "ce", False, None, f"{COMPARED}cifar: eps 1.8, 7 steps, clamp 0, 1"),
    "bigroc-cganpd": ("pgd", 7, 1.5 * 3 / 7 / 2, 3 / 2, "ce", False, None, f"{CIFAR}cGAN_PD: eps 3, 7 steps, clamp -1, 1"),
    "bigroc-wgangp": ("pgd", 30, 5 / 30 / 2, 5 / 2, "ce", False, "debiased", f"{CIFAR}Unconditional, WGAN-GP: eps 5, 30 of eps/30"),
    "bigroc-sngan": ("pgd", 30, 5 / 30 / 2, 5 / 2, "ce", False, "debiased", f"{CIFAR}Unconditional, SNGAN: eps 5, 30 of eps/30"),
    "bigroc-ssgan": ("pgd", 30, 3 / 30 / 2, 3 / 2, "ce", False, "debiased", f"{CIFAR}Unconditional, SSGAN: eps 3, 30 of eps/30"),
    "bigroc-infomax": ("pgd", 30, 3 / 30 / 2, 3 / 2, "ce", False, "debiased", f"{CIFAR}Unconditional, InfoMaxGAN: eps 3"),
    "dat-cifar10": ("pgd", 33, 0.2, None, "logit", False, None, f"{DAT}cifar10-dat-WideResNet34x10-T40-seed0: 33"),
    "dat-cifar10-t50": ("pgd", 35, 0.2, None, "logit", False, None, f"{DAT}cifar10-dat-WideResNet34x10-T50: 35"),
    "dat-cifar100": ("pgd", 32, 0.2, None, "logit", False, None, f"{DAT}cifar100-dat-WideResNet34x10-T45-seed0: 32"),
    "dat-rn50": ("pgd", 14, 8.0, None, "logit", False, None, f"{DAT}imagenet-dat-ResNet50ImageNet-T30-256x256: 14"),
    "dat-wrn50-4": ("pgd", 19, 8.0, None, "logit", False, None, f"{DAT}imagenet-dat-WideResNet50x4ImageNet-T65-256x256: 19"),
    "dat-convnext-l": ("pgd", 24, 8.0, None, "logit", False, None, f"{DAT}imagenet-dat-ConvNeXtLarge-convst-256x256: 24"),
}  # fmt: skip


def test_the_table_has_every_preset() -> None:
    assert list(TABLE) == list(PRESETS)
    assert all(preset.about for preset in PRESETS.values())


@pytest.mark.parametrize("name", ["ct1", "ct2", "cd1", "cd2", "adm", "biggan", "iddpm"])
def test_a_fast_preset_goes_the_paper_s_path_in_a_few_long_steps(name) -> None:
    paper, fast = (make_update(find_preset(preset)) for preset in (name, f"{name}-fast"))
    assert fast.steps * fast.step_size == pytest.approx(paper.steps * paper.step_size, rel=1e-12)
    assert fast.steps == 4
    assert (fast.kind, fast.strengths().radius) == (paper.kind, paper.strengths().radius)


@pytest.mark.parametrize("name", TABLE)
def test_a_preset_is_what_its_source_says(name) -> None:
    kind, steps, size, eps, objective, early_stop, labels, source = TABLE[name]
    preset = find_preset(name)
    update = make_update(preset)
    how = resolve_settings(update, objective=None, l0=3.0, early_stop=None, seed=0, preset=preset)
    assert (update.name, update.steps) == (kind, steps), source
    assert update.step_size == pytest.approx(size, rel=1e-12), source
    assert update.strengths().radius == (math.inf if eps is None else eps), source
    assert update.strengths().noise == (1e-4 if kind == "sgld" else 0.0), source
    assert (how.objective, how.early_stop, how.labels, how.rounding) == (objective, early_stop, labels, "nearest"), (
        source
    )
    if kind == "pgd":
        assert update.kind == "pgd-l2", source
    # What the user types wins.
    typed = resolve_settings(
        make_update(preset, steps=2),
        objective="bce",
        l0=3.0,
        early_stop=True,
        seed=0,
        preset=preset,
        labels="predicted",
    )
    assert (typed.update.steps, typed.objective, typed.early_stop, typed.labels) == (2, "bce", True, "predicted")
    # An objective without labels drops the preset's.
    energy = resolve_settings(update, objective="energy", l0=3.0, early_stop=None, seed=0, preset=preset)
    assert energy.labels is None
