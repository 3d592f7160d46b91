"""The models of `zoo.py`: constructions of timm, torchvision and RobustBench, made small where their constructors allow it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

CLASSES = 10


@dataclass(frozen=True)
class Model:
    """A model of the zoo.

    Attributes:
        family: what the table groups by.
        package: ``"timm"``, ``"torchvision"`` or ``"robustbench"``.
        source: the package's own name of the model or class.
        size: image size in pixels.
        build: makes the network, with random weights and `CLASSES` logits.
    """

    family: str
    package: str
    source: str
    size: int
    build: Callable[[], nn.Module]

    @property
    def name(self) -> str:
        """A unique name."""
        return f"{self.package}:{self.source}:{self.size}"


def declare_operators() -> None:
    """Make ``import torchvision`` work beside a CPU build of torch, for which PyPI's torchvision has no compiled operators."""
    boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", boxes)


def _timm(family: str, name: str, size: int = 64, as_: str = "", **how: Any) -> Model:
    def build() -> nn.Module:
        declare_operators()
        import timm

        network: nn.Module = timm.create_model(name, num_classes=CLASSES, **how)
        return network

    return Model(family, "timm", as_ or name, size, build)


def _timm_class(family: str, source: str, build: Callable[[Any], nn.Module], size: int = 64) -> Model:
    """A class of timm whose registered models do not let go of their size."""

    def made() -> nn.Module:
        declare_operators()
        return build(importlib.import_module(f"timm.models.{source.partition('.')[0]}"))

    return Model(family, "timm", source, size, made)


def _torchvision(family: str, source: str, size: int, build: Callable[[Any], nn.Module]) -> Model:
    def made() -> nn.Module:
        declare_operators()
        return build(importlib.import_module("torchvision.models"))

    return Model(family, "torchvision", source, size, made)


def robustbench(module: str) -> Any:
    """Import a module of RobustBench's architectures without its package: the package imports what downloads and attacks need."""
    declare_operators()
    if "robustbench" not in sys.modules:
        found = importlib.util.find_spec("robustbench")
        if found is None or found.origin is None:
            raise ImportError("robustbench is not installed: pip install robustbench")
        for name, folder in (("robustbench", "."), ("robustbench.model_zoo", "model_zoo")):
            package = types.ModuleType(name)
            package.__path__ = [str(Path(found.origin).parent / folder)]
            sys.modules[name] = package
    return importlib.import_module(f"robustbench.model_zoo.architectures.{module}")


def _robust(family: str, source: str, build: Callable[[Any], nn.Module], size: int = 32) -> Model:
    return Model(family, "robustbench", source, size, lambda: build(robustbench(source.partition(".")[0])))


def _sparse(network: nn.Module) -> nn.Module:
    """Give MeanSparse layers statistics and thresholds: some of them cut, some do nothing."""
    for number, (name, buffer) in enumerate(network.named_buffers()):
        if name.endswith(".threshold"):
            buffer.fill_(0.2 if number % 2 else 0.0)
        elif "sparse" in name and name.endswith("running_var"):
            buffer.fill_(0.5)
    return network


def _convnext(block: int, models: Any) -> nn.Module:
    setting = models.convnext.CNBlockConfig
    network: nn.Module = models.convnext.ConvNeXt(
        [setting(16, 32, 1), setting(32, 48, block), setting(48, None, 1)], num_classes=CLASSES
    )
    return network


def _vgg(models: Any) -> nn.Module:
    network: nn.Module = models.vgg.VGG(models.vgg.make_layers([16, "M", 32, "M", 512, "M"], True), CLASSES)
    network.classifier = nn.Sequential(nn.Linear(512 * 7 * 7, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, CLASSES))
    return network


def _maxxvit(models: Any, blocks: str) -> nn.Module:
    how = models.MaxxVitCfg(
        embed_dim=(32, 64),
        depths=(1, 1),
        block_type=tuple(blocks),
        stem_width=16,
        transformer_cfg=models.MaxxVitTransformerCfg(dim_head=16, window_size=(4, 4)),
    )
    network: nn.Module = models.MaxxVit(how, img_size=64, num_classes=CLASSES)
    return network


def _convstem(module: Any) -> nn.Module:
    declare_operators()
    import timm

    network: nn.Module = timm.create_model("convnext_tiny", num_classes=CLASSES, **_SMALL)
    network.stem = module.ConvBlock1(8)
    return network


_SMALL = {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 48)}
_WINDOWS = {"img_size": 64, "window_size": 4, "embed_dim": 16, "depths": (1, 2), "num_heads": (2, 4)}
_VIT = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 4}
_RESNET = {"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 48)}

MODELS: tuple[Model, ...] = (
    _timm("ResNet", "resnet18", **_RESNET),
    _timm("ResNet", "resnet50d", **_RESNET),
    _timm("ResNet", "resnetblur50", **_RESNET),
    _timm("ResNet", "seresnet50", **_RESNET),
    _timm("ResNet", "resnet50", as_="resnet50, act_layer=silu", act_layer="silu", **_RESNET),
    _torchvision("ResNet", "resnet18", 64, lambda m: m.resnet18(num_classes=CLASSES)),
    _timm("ResNeXt", "resnext50_32x4d", layers=(1, 1, 1, 1), channels=(32, 32, 32, 32), cardinality=8),
    _timm("Wide ResNet", "wide_resnet50_2", **_RESNET),
    _timm_class(
        "ResNetV2 (BiT)",
        "resnetv2._create_resnetv2_bit",
        lambda m: m._create_resnetv2_bit("resnetv2_50x1_bit", layers=[1, 1, 1, 1], width_factor=1, num_classes=CLASSES),
    ),
    _timm("ConvNeXt, linear MLP", "convnext_atto", conv_mlp=False, **_SMALL),
    _timm("ConvNeXt, convolutional MLP", "convnext_atto_ols", conv_mlp=True, **_SMALL),
    _torchvision("ConvNeXt, linear MLP", "convnext.ConvNeXt", 64, lambda m: _convnext(2, m)),
    _timm("ConvNeXtV2", "convnextv2_atto", **_SMALL),
    _timm("Swin", "swin_tiny_patch4_window7_224", **_WINDOWS),
    _torchvision(
        "Swin",
        "swin_transformer.SwinTransformer",
        32,
        lambda m: m.swin_transformer.SwinTransformer([4, 4], 16, [1, 2], [2, 4], [4, 4], num_classes=CLASSES),
    ),
    _timm("SwinV2", "swinv2_tiny_window8_256", **_WINDOWS),
    _timm("ViT", "vit_tiny_patch16_224", 32, **_VIT),
    _torchvision(
        "ViT",
        "vision_transformer.VisionTransformer",
        32,
        lambda m: m.vision_transformer.VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=CLASSES),
    ),
    _timm("DeiT", "deit_tiny_distilled_patch16_224", 32, **_VIT),
    _timm("CaiT", "cait_xxs24_224", 32, **_VIT),
    _timm("XCiT", "xcit_nano_12_p8_224", 64, img_size=64, embed_dim=32, depth=2, num_heads=4),
    _timm("LeViT", "levit_128s", 64, img_size=64, embed_dim=(32, 48, 64), num_heads=(2, 3, 4), depth=(1, 1, 1)),
    _timm("EfficientFormer", "efficientformer_l1", 224, depths=(1, 1, 1, 1), embed_dims=(16, 24, 32, 48)),
    _timm("TinyViT", "tiny_vit_5m_224", 64, embed_dims=(16, 32, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 2)),
    _timm("EfficientNet", "efficientnet_lite0", 64),
    _timm("EfficientNet", "efficientnet_b0", 64),
    _timm("MobileNetV3", "mobilenetv3_small_050", 64),
    _torchvision("MobileNetV3", "mobilenet_v3_small", 64, lambda m: m.mobilenet_v3_small(num_classes=CLASSES)),
    _timm("DenseNet", "densenet121", 64, growth_rate=8, block_config=(2, 2, 2, 2)),
    _torchvision(
        "DenseNet", "densenet.DenseNet", 64, lambda m: m.densenet.DenseNet(8, (2, 2, 2), 16, num_classes=CLASSES)
    ),
    _torchvision("VGG", "vgg.VGG, narrow classifier", 64, _vgg),
    _timm("RegNet", "regnety_002", 64),
    _timm_class(
        "NFNet",
        "nfnet.NormFreeNet",
        lambda m: m.NormFreeNet(
            m.NfCfg(
                (1, 1, 1, 1),
                (32, 64, 96, 128),
                stem_type="deep_quad",
                group_size=16,
                attn_layer="se",
                attn_kwargs={},
                extra_conv=True,
            ),
            num_classes=CLASSES,
        ),
    ),
    _timm_class(
        "MLP-Mixer",
        "mlp_mixer.MlpMixer",
        lambda m: m.MlpMixer(CLASSES, 32, patch_size=4, num_blocks=2, embed_dim=32),
        32,
    ),
    _timm("PoolFormer", "poolformer_s12", 64),
    _timm_class("MaxViT", "maxxvit.MaxxVit", lambda m: _maxxvit(m, "MM")),
    _timm_class("CoAtNet", "maxxvit.MaxxVit, C and T blocks", lambda m: _maxxvit(m, "CT")),
    _timm("Inception", "inception_v3", 96),
    _torchvision(
        "GoogLeNet", "googlenet", 64, lambda m: m.googlenet(num_classes=CLASSES, aux_logits=False, init_weights=False)
    ),
    _torchvision("SqueezeNet", "squeezenet1_1", 64, lambda m: m.squeezenet1_1(num_classes=CLASSES)),
    _robust("Wide ResNet (Carmon)", "wide_resnet.WideResNet", lambda m: m.WideResNet(10, CLASSES, 2)),
    _robust(
        "Wide ResNet, SiLU (Rebuffi, Gowal)",
        "dm_wide_resnet.DMWideResNet, Swish",
        lambda m: m.DMWideResNet(CLASSES, 10, 1, m.Swish),
    ),
    _robust(
        "PreAct ResNet, SiLU (Rebuffi)",
        "dm_wide_resnet.DMPreActResNet",
        lambda m: m.DMPreActResNet(CLASSES, 18, 0, m.Swish),
    ),
    _robust("ResNet (Engstrom)", "resnet.ResNet", lambda m: m.ResNet(m.Bottleneck, [1, 1, 1, 1])),
    _robust("PreAct ResNet", "resnet.PreActResNet", lambda m: m.PreActResNet(m.PreActBlock, [1, 1, 1, 1])),
    _robust(
        "Wide ResNet (Huang)",
        "robust_wide_resnet.RobustWideResNet",
        lambda m: m.RobustWideResNet(CLASSES, [16, 16, 24, 32], [1, 1, 1]),
    ),
    _robust(
        "MeanSparse Wide ResNet",
        "Meansparse_wrn_94_16.MeanSparse_DMWideResNet",
        lambda m: _sparse(m.MeanSparse_DMWideResNet(CLASSES, 10, 1, m.Swish)),
    ),
    _robust(
        "MeanSparse Swin",
        "Meansparse_swin_L.SwinTransformer",
        lambda m: _sparse(
            m.SwinTransformer(64, num_classes=CLASSES, window_size=4, embed_dim=16, depths=(1, 2), num_heads=(2, 4))
        ),
        64,
    ),
    _robust(
        "ConvNeXtV2", "convnext_v2.ConvNeXtV2", lambda m: m.ConvNeXtV2(3, CLASSES, (1, 1, 1, 1), (16, 24, 32, 48)), 64
    ),
    _robust("ResNeXt", "resnext.CifarResNeXt", lambda m: m.CifarResNeXt(m.ResNeXtBottleneck, 29, 4, 8, CLASSES)),
    _robust(
        "ResNeSt",
        "resnest.ResNest",
        lambda m: m.ResNest(
            m.Bottleneck,
            [1, 1, 1, 1],
            radix=2,
            deep_stem=True,
            stem_width=8,
            avg_down=True,
            bottleneck_width=8,
            num_classes=CLASSES,
        ),
        64,
    ),
    _robust(
        "Wide ResNet, PSSiLU", "paf_wide_resnet.PAF_WideResNet", lambda m: m.PAF_WideResNet(m.PSSiLU(), 10, CLASSES, 1)
    ),
    _robust("ConvNeXt with ConvStem (Singh)", "convstem_models.ConvBlock1", _convstem, 64),
    _robust(
        "PreAct ResNet, SiLU (Peng)",
        "robust_resnet.PreActResNet",
        lambda m: m.PreActResNet(CLASSES, (16, 16, 24, 32), (1, 1, 1), activations=("SiLU",) * 3, pre_process=True),
    ),
    _robust(
        "RaWideResNet",
        "robustarch_wide_resnet.NormalizedWideResNet",
        lambda m: m.NormalizedWideResNet(
            [0.5] * 3, [0.25] * 3, 16, [1, 1, 1], [16, 32, 48], [1, 1, 1], nn.SiLU, 0.25, nn.ReLU, 1, CLASSES
        ),
    ),
)
