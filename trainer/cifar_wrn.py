"""The Wide ResNets of CIFAR, with the parameter names of TRADES and RobustBench.

Zagoruyko and Komodakis 2016 (arXiv 1605.07146). Names and order of operations follow RobustBench's
``robustbench/model_zoo/architectures/wide_resnet.py``, itself from github.com/yaodongyu/TRADES, so the robust
checkpoints of both load. One difference: the average pool is global instead of 8x8. At 32 px the result is the same,
and other sizes work too.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from jboost.engine.errors import BadInputError

from .resnet import conv1x1, conv3x3


class WideBlock(nn.Module):
    """Pre-activation block of two 3x3 convolutions: [B, in_planes, H, W] -> [B, planes, H/stride, W/stride].

    If the number of channels changes, the shortcut is a 1x1 convolution of the *activated* input; otherwise it is the
    input itself.
    """

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_planes)
        self.conv1 = conv3x3(in_planes, planes, stride)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv2 = conv3x3(planes, planes)
        self.convShortcut = None if in_planes == planes else conv1x1(in_planes, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of the block and its shortcut; the next block applies the activation."""
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (x if self.convShortcut is None else self.convShortcut(active))


class _Stage(nn.Module):
    """`blocks` blocks under the name ``layer``, as in the published checkpoints."""

    def __init__(self, blocks: int, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            WideBlock(in_planes, planes, stride), *(WideBlock(planes, planes, 1) for _ in range(blocks - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """WRN-`depth`-`widen` (names: ``conv1``, ``block1.layer.0.bn1``, ``block1.layer.0.convShortcut``, ..., ``bn1``,
    ``fc``).

    Input: float [B, in_channels, H, W], already normalised, 32 px in the published checkpoints. Output: logits [B,
    num_classes].

    Raises:
        BadInputError: a depth that is not 6 n + 4 with n of at least 1, or a widening factor below 1.
    """

    def __init__(self, depth: int, widen: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6 != 0 or widen < 1:
            raise BadInputError(
                f"no Wide ResNet of depth {depth} and width {widen}: the depth must be 6 n + 4 (10, 16, 28, 34, ...), "
                "the width at least 1"
            )
        blocks = (depth - 4) // 6
        planes = (16, 16 * widen, 32 * widen, 64 * widen)
        self.conv1 = conv3x3(in_channels, planes[0])
        self.block1 = _Stage(blocks, planes[0], planes[1], stride=1)
        self.block2 = _Stage(blocks, planes[1], planes[2], stride=2)
        self.block3 = _Stage(blocks, planes[2], planes[3], stride=2)
        self.bn1 = nn.BatchNorm2d(planes[3])
        self.fc = nn.Linear(planes[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He-normal, fan out, as in the original.
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of normalised images [B, in_channels, H, W]."""
        out = self.block3(self.block2(self.block1(self.conv1(x))))
        out = F.relu(self.bn1(out))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits
