"""The ResNets of ImageNet, with torchvision's parameter names and numbers.

torchvision itself is not imported, because the import can fail beside a CPU build of torch. Sources: He et al. 2015
(arXiv 1512.03385); for the wide variants, Zagoruyko and Komodakis 2016 (arXiv 1605.07146). As in torchvision, the 3x3
convolution of a bottleneck has the stride ("ResNet v1.5"), and only the inner width of the bottleneck grows in the wide
variants. wide_resnet50_4 is not in torchvision; it comes from the Madry lab (github.com/MadryLab/robustness).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

_STAGE_PLANES = (64, 128, 256, 512)


def conv3x3(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size at stride 1."""
    return nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)


def conv1x1(in_planes: int, planes: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_planes, planes, 1, stride=stride, bias=False)


def _shortcut(in_planes: int, planes: int, stride: int) -> nn.Sequential | None:
    """The layers that make the skip connection match its block's output; None if it matches already."""
    if stride == 1 and in_planes == planes:
        return None
    return nn.Sequential(conv1x1(in_planes, planes, stride), nn.BatchNorm2d(planes))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip connection: [B, in_planes, H, W] -> [B, planes, H/stride, W/stride]."""

    expansion = 1

    def __init__(self, in_planes: int, planes: int, stride: int = 1, base_width: int = 64) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_planes, planes, stride)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _shortcut(in_planes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, after its last ReLU."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and a skip connection: [B, in_planes, H, W] -> [B, 4 * planes, H/stride, W/stride]."""

    expansion = 4

    def __init__(self, in_planes: int, planes: int, stride: int = 1, base_width: int = 64) -> None:
        super().__init__()
        width = planes * base_width // 64
        self.conv1 = conv1x1(in_planes, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, planes * self.expansion)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)
        self.downsample = _shortcut(in_planes, planes * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, after its last ReLU."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return F.relu(out + (x if self.downsample is None else self.downsample(x)))


@dataclass(frozen=True)
class ResNetShape:
    """The numbers that define a ResNet.

    Attributes:
        bottleneck: True for bottleneck blocks, False for basic blocks.
        blocks: number of blocks in each of the four stages.
        base_width: inner width of a bottleneck of the first stage: 64, or more in the wide variants.
    """

    bottleneck: bool
    blocks: tuple[int, int, int, int]
    base_width: int = 64


RESNETS = {
    "resnet18": ResNetShape(False, (2, 2, 2, 2)),
    "resnet34": ResNetShape(False, (3, 4, 6, 3)),
    "resnet50": ResNetShape(True, (3, 4, 6, 3)),
    "resnet101": ResNetShape(True, (3, 4, 23, 3)),
    "wide_resnet50_2": ResNetShape(True, (3, 4, 6, 3), base_width=128),
    "wide_resnet50_4": ResNetShape(True, (3, 4, 6, 3), base_width=256),
    "wide_resnet101_2": ResNetShape(True, (3, 4, 23, 3), base_width=128),
}


def initialise(network: nn.Module) -> None:
    """Initialise as torchvision does: He-normal convolutions (fan out), torch's defaults for all other layers."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class ResNet(nn.Module):
    """A ResNet with torchvision's parameter names (``conv1``, ``bn1``, ``layer1.0.conv1``, ..., ``fc``).

    Input: float [B, in_channels, H, W], already normalised, of at least 1x1 pixel (the network shrinks it 32-fold,
    rounding up, before the average pool). Output: logits [B, num_classes].
    """

    def __init__(self, shape: ResNetShape, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        expansion = Bottleneck.expansion if shape.bottleneck else BasicBlock.expansion
        inputs = (64, *(planes * expansion for planes in _STAGE_PLANES))
        stages = [
            _stage(shape, inputs[i], planes, blocks, stride=1 if i == 0 else 2)
            for i, (planes, blocks) in enumerate(zip(_STAGE_PLANES, shape.blocks, strict=True))
        ]
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.fc = nn.Linear(inputs[-1], num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of normalised images [B, in_channels, H, W]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.max_pool2d(out, 3, stride=2, padding=1)
        out = self.layer4(self.layer3(self.layer2(self.layer1(out))))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def _stage(shape: ResNetShape, in_planes: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` blocks at one resolution; the first one shrinks the image and sets the number of channels."""
    block: type[Bottleneck] | type[BasicBlock] = Bottleneck if shape.bottleneck else BasicBlock
    out_planes = planes * block.expansion
    return nn.Sequential(
        block(in_planes, planes, stride, shape.base_width),
        *(block(out_planes, planes, 1, shape.base_width) for _ in range(blocks - 1)),
    )
