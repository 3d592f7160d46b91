"""What the checkpoint tests share: networks to save, and what it means that a file was read right or refused."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jboost.engine.errors import BadInputError
from jboost.export.checkpoints.load import LoadedCheckpoint, load_checkpoint
from jboost.trainer.architectures import build_network
from jboost.trainer.joint import NORMALIZATIONS

IMAGENET = NORMALIZATIONS["imagenet"]
NONE = ((0.0,) * 3, (1.0,) * 3)
StateDict = dict[str, Tensor]
Stats = tuple[tuple[float, ...], tuple[float, ...]]


def network(arch: str, num_classes: int, in_channels: int = 3) -> nn.Module:
    """Random weights and BatchNorm statistics: a weight that goes astray changes the logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = build_network(arch, num_classes, in_channels)
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.5, 1.5)
    return made.eval()


def images(channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(1))


def expected(net: nn.Module, stats: Stats, x: Tensor) -> Tensor:
    mean, std = (torch.tensor(v)[:, None, None] for v in stats)
    with torch.no_grad():
        return net((x - mean) / std)


def check(path: Path, net: nn.Module, stats: Stats, **options: Any) -> LoadedCheckpoint:
    """Load `path` and compare its logits with those of `net` on images normalised by `stats`."""
    loaded = load_checkpoint(path, **options)
    x = images(len(stats[0]))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), expected(net, stats, x), rtol=1e-5, atol=1e-5)
    assert not any(module.training for module in loaded.model.modules())
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.model.parameters())
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert all("\n" not in note for note in loaded.notes)
    return loaded


def refused(path: Path, *words: str, **options: Any) -> str:
    with pytest.raises(BadInputError) as caught:
        load_checkpoint(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


def prefixed(prefix: str, sd: StateDict) -> StateDict:
    return {prefix + name: tensor for name, tensor in sd.items()}
