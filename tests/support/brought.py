"""Networks as users bring them: what they export to is compared with the pipeline that the user had."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jboost.engine.backends.program import load_program
from jboost.export.bundle import Exported, export_bundle

NET = """
import torch
from dataclasses import dataclass
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=4, channels=3, form="logits"):
        super().__init__()
        self.entry = nn.Conv2d(channels, 6, 3, 2)
        self.out = nn.Linear(6, num_classes)
        self.form = form

    def forward(self, x):
        logits = 9 * self.out(torch.nn.functional.silu(self.entry(x)).mean((2, 3)))
        if self.form == "logits":
            return logits
        return FORMS[self.form](logits, x)


@dataclass
class ModelOutput:
    logits: torch.Tensor
    hidden: torch.Tensor | None = None


@dataclass
class Parts:
    scores: torch.Tensor


FORMS = {
    "output": lambda logits, x: ModelOutput(logits=logits),
    "dict": lambda logits, x: {"logits": logits, "features": x},
    "map": lambda logits, x: logits[:, :, None, None],
    "tuple": lambda logits, x: (logits, x),
    "other dict": lambda logits, x: {"out": logits},
    "other object": lambda logits, x: Parts(logits),
    "softmax": lambda logits, x: logits.softmax(1),
    "log_softmax": lambda logits, x: logits.log_softmax(1),
    "sigmoid": lambda logits, x: logits.sigmoid(),
    "scalar": lambda logits, x: logits.sum(),
}
"""


def scaled(network: nn.Module) -> nn.Module:
    """The network in eval mode with random weights of one seed, its outputs far enough apart to compare."""
    generator = torch.Generator().manual_seed(3)
    for parameter in network.parameters():
        spread = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.1
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread + (1 if parameter.ndim == 1 else 0)
    return network.eval()


def pipeline(network: nn.Module, mean: Sequence[float], std: Sequence[float], x: Tensor) -> Tensor:
    """What the user's own code computes of images [B, C, H, W] in [0, 1]."""
    shape = (1, -1, 1, 1)
    with torch.no_grad():
        return network((x - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape))


def exported(checkpoint: Path | None, out: Path, **options: Any) -> Exported:
    """The bundle with its forward program alone."""
    return export_bundle(checkpoint, out, formats=(), **options)


def logits(bundle: Path, x: Tensor) -> Tensor:
    """The logits of a bundle's forward program."""
    with torch.no_grad():
        return load_program(bundle / "forward.pt2", "cpu")(x)


def images(channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(5))
