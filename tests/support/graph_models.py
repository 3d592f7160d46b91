"""Small networks that between them use every kind of layer the exporter must handle. Each takes [B, C, H, W] in [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Normalize(nn.Module):
    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.register_buffer("mean", torch.linspace(0.4, 0.5, channels).view(1, -1, 1, 1))
        self.register_buffer("std", torch.linspace(0.22, 0.25, channels).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Bottleneck(nn.Module):
    """ResNet's block: 1x1, 3x3, 1x1, in-place ReLUs, projection where the shape changes."""

    def __init__(self, cin: int, width: int, stride: int) -> None:
        super().__init__()
        cout = 2 * width
        self.conv1, self.bn1 = nn.Conv2d(cin, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, cout, 1, bias=False), nn.BatchNorm2d(cout)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride > 1 or cin != cout:
            self.down = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class TinyResNet(nn.Module):
    """Post-activation ResNet with the large one's stem: 7x7 stride 2, overlapping max-pooling."""

    def __init__(self, channels: int = 3, classes: int = 10, width: int = 8, pool: int = 1) -> None:
        super().__init__()
        self.normalize = Normalize(channels)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)
        )
        self.blocks = nn.Sequential(
            Bottleneck(width, width, 1), Bottleneck(2 * width, width, 1), Bottleneck(2 * width, 2 * width, 2)
        )
        self.pool = nn.AdaptiveAvgPool2d(pool)
        self.fc = nn.Linear(4 * width * pool * pool, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(self.normalize(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


class PreActivationNet(nn.Module):
    """Wide-ResNet order: BatchNorm before ReLU before convolution, functional pooling, no bias in the convolutions."""

    def __init__(self, channels: int = 3, classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.conv0 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, 2 * width, 3, 2, 1, bias=False)
        self.short = nn.Conv2d(width, 2 * width, 1, 2, bias=False)
        self.bn3 = nn.BatchNorm2d(2 * width)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv0((x - 0.5) * 2)
        x = x + self.conv1(F.relu(self.bn1(x)))
        y = F.relu(self.bn2(x))
        x = self.short(y) + self.conv2(y)
        x = F.avg_pool2d(F.relu(self.bn3(x)), 2)
        return self.fc(x.mean((2, 3)))


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.scale = nn.Parameter(0.5 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class TinyConvNeXt(nn.Module):
    def __init__(self, channels: int = 3, classes: int = 10, dim: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, dim, 4, 4), LayerNorm2d(dim))
        self.blocks = nn.Sequential(
            ConvNeXtBlock(dim), LayerNorm2d(dim), nn.Conv2d(dim, 2 * dim, 2, 2), ConvNeXtBlock(2 * dim)
        )
        self.norm, self.head = nn.LayerNorm(2 * dim), nn.Linear(2 * dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x)).mean((-2, -1))))


class TinyViT(nn.Module):
    """Patches, a class token, positions, torch's own encoder layers (whose fast path must not be traced)."""

    def __init__(self, channels: int = 3, classes: int = 10, dim: int = 16, patch: int = 4, size: int = 16) -> None:
        super().__init__()
        self.patch = nn.Conv2d(channels, dim, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.position = nn.Parameter(0.1 * torch.randn(1, (size // patch) ** 2 + 1, dim))
        layer = nn.TransformerEncoderLayer(dim, 2, 2 * dim, 0.1, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), tokens], 1) + self.position
        return self.head(self.encoder(tokens)[:, 0])


class OddLayers(nn.Module):
    """Grouped, dilated and transposed convolutions, GroupNorm, SiLU, softplus, ceil-mode pooling, an untidy adaptive pool."""

    def __init__(self, channels: int = 3, classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, width, 3, padding=2, dilation=2, padding_mode="zeros")
        self.norm = nn.GroupNorm(2, width)
        self.b = nn.Conv2d(width, width, (3, 2), (2, 1), (1, 0), groups=4)
        self.c = nn.ConvTranspose2d(width, width, 3, 2, 1, 1)
        self.pool = nn.AdaptiveAvgPool2d((3, 2))
        self.fc = nn.Linear(width * 6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.a(x)))
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        x = F.leaky_relu(self.b(x), 0.1)
        x = F.avg_pool2d(F.softplus(self.c(x)), 3, 2, 1, ceil_mode=True, count_include_pad=False)
        return self.fc(self.pool(F.hardtanh(x)).flatten(1))


MODELS: dict[str, type[nn.Module]] = {
    "resnet": TinyResNet,
    "preactivation": PreActivationNet,
    "convnext": TinyConvNeXt,
    "vit": TinyViT,
    "odd": OddLayers,
}

#: A name, the channels and the size of an image for a network of each family, residual networks twice.
ONE_OF_EACH = [
    ("resnet", 3, 32),
    ("resnet", 1, 45),
    ("preactivation", 3, 19),
    ("convnext", 3, 27),
    ("vit", 3, 16),
    ("odd", 1, 23),
]


def make(name: str, channels: int = 3, seed: int = 0, **kwargs: int) -> nn.Module:
    """A model in evaluation mode whose BatchNorm statistics are not the trivial ones."""
    torch.manual_seed(seed)
    model = MODELS[name](channels=channels, **kwargs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval().requires_grad_(False)


def reference(
    model: nn.Module, objective: str, x: Tensor, y: Tensor, l0: float | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a gradient graph must return, by autograd."""
    from jboost.engine.method.objectives import OBJECTIVES, class_logit

    x = x.detach().requires_grad_()
    logits = model(x)
    loss = OBJECTIVES[objective](logits, y, 0.0 if l0 is None else l0)
    (grad,) = torch.autograd.grad(loss.sum(), x)
    return grad, class_logit(logits, y).detach(), loss.detach(), logits.argmax(1)
