"""Small networks of the constructions of other people's that tracing once refused. Each takes [B, 3, 16, 16] in [0, 1].

The module's functions also serve ``--arch other_networks:everything``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GloballyPooled(nn.Module):
    """ConvNeXt's and Swin's end: [B, H, W, C] is permuted to [B, C, H, W], whose strides are channels-last, and pooled."""

    def __init__(self, pool: Callable[[Tensor], Tensor], classes: int = 4) -> None:
        super().__init__()
        self.patches, self.mix, self.pool = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), pool
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.mix(self.patches(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        return self.head(self.pool(x).flatten(1))


#: Global average pooling as users write it: of the map, of its tokens, and of the map as a volume of one layer.
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.AdaptiveAvgPool2d(1),
    "pair": nn.AdaptiveAvgPool2d((1, 1)),
    "function": lambda x: F.adaptive_avg_pool2d(x, output_size=[1, 1]),
    "tokens": lambda x: nn.AdaptiveAvgPool1d(1)(x.flatten(2)),
    "volume": lambda x: F.adaptive_avg_pool3d(x[:, :, None], (1, 1, 1)),
}


class Sparse(nn.Module):
    """MeanSparse: values near a channel's mean become the mean; a flag and a threshold, buffers of one number, are branched on."""

    def __init__(self, channels: int, threshold: float, shape: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.linspace(-0.3, 0.3, channels))
        self.register_buffer("running_var", torch.linspace(0.2, 0.4, channels))
        self.register_buffer("threshold", torch.full(shape, threshold))
        self.register_buffer("updating", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.updating:
            self.running_mean += x.mean((0, 2, 3))
        bias = self.running_mean.view(1, -1, 1, 1)
        crop = self.threshold * self.running_var.sqrt().view(1, -1, 1, 1)
        if self.threshold == 0:
            return x
        return torch.where((x - bias).abs() < crop, bias * torch.ones_like(x), x)


class SparseNet(nn.Module):
    def __init__(self, threshold: float = 0.4, shape: tuple[int, ...] = (), classes: int = 4) -> None:
        super().__init__()
        self.conv, self.norm, self.sparse = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), Sparse(8, threshold, shape)
        self.off, self.head = Sparse(8, 0.0), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.silu(self.off(self.sparse(self.norm(self.conv(x))))).mean((2, 3)))


class Caching(nn.Module):
    """Keeps a tensor from its first forward pass in evaluation mode, as LeViT keeps its attention biases.

    LeViT's cache is cleared by ``train()`` and by conversions; with `clears` False nothing clears it, and its dtype stays.
    """

    def __init__(self, clears: bool = True, classes: int = 4) -> None:
        super().__init__()
        self.clears = clears
        self.conv, self.norm = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8)
        self.table = nn.Parameter(torch.randn(8, 4))
        self.register_buffer("rows", torch.randint(0, 8, (8,)), persistent=False)
        self.cache: dict[str, Tensor] = {}
        self.head = nn.Linear(4, classes)

    def train(self, mode: bool = True) -> Caching:
        super().train(mode)
        if self.clears:
            self.cache = {}
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: object) -> Caching:
        if self.clears:
            self.cache = {}
        return super()._apply(fn, *args)

    def mixing(self, x: Tensor) -> Tensor:
        if self.training:
            return self.table[self.rows]
        key = str(x.device)
        if key not in self.cache:
            self.cache[key] = self.table[self.rows]
        return self.cache[key]

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(torch.tanh(tokens @ self.mixing(x)).mean(1))


class Everything(nn.Module):
    """All of them in one network, and a BatchNorm before a map becomes tokens."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [GloballyPooled(POOLS["module"], classes), SparseNet(classes=classes), Caching(classes=classes)]
        )

    def forward(self, x: Tensor) -> Tensor:
        return sum((part(x) for part in self.parts), torch.zeros((), device=x.device))


def everything(num_classes: int) -> nn.Module:
    """The factory for ``--arch``."""
    return Everything(num_classes)


def ready(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode, with BatchNorm statistics that are not the trivial ones."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval().requires_grad_(False)
