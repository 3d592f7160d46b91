"""A ResNet small enough to train adversarially on a CPU, for images of 8 to 64 pixels.

Its blocks are plain conv-BatchNorm-ReLU: each BatchNorm follows a convolution, so export can fold it into the weights.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from jboost.engine.errors import BadInputError

from .resnet import BasicBlock, conv3x3, initialise

BLOCKS_PER_STAGE = 1


class SmallResNet(nn.Module):
    """Three stages of `width`, 2 `width` and 4 `width` channels with strides 1, 2, 2 (names: ``conv1``, ``bn1``,
    ``layer1`` to ``layer3``, ``fc``).

    Input: float [B, in_channels, H, W], already normalised. Output: logits [B, num_classes].

    Raises:
        BadInputError: a width below 1.
    """

    def __init__(self, width: int = 24, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if width < 1:
            raise BadInputError(f"a small_resnet needs a width of at least 1, got {width}")
        self.conv1 = conv3x3(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.fc = nn.Linear(4 * width, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of normalised images [B, in_channels, H, W]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))
        return logits


def _stage(in_planes: int, planes: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_planes, planes, stride), *(BasicBlock(planes, planes) for _ in range(BLOCKS_PER_STAGE - 1))
    )
