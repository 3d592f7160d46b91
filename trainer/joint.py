"""The joint classifier-discriminator: a network with its normalisation inside, so that callers pass [0, 1] images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from jboost.engine.errors import BadInputError, one_line

# Normalisations that the field calls by name. CIFAR-10's standard deviations are those of all its pixels, as in
# RobustBench and the Madry lab.
NORMALIZATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}

#: What `parse_normalization` reads.
FORMS = "imagenet, cifar10, none or m1,m2,m3/s1,s2,s3 (one value a channel)"


class JointModel(nn.Module):
    """``network((x - mean) / std)``.

    Input: float [B, C, H, W] in [0, 1]. Output: logits [B, num_classes]; the class logit is also the realness score.

    Attributes:
        network: maps normalised images to logits.
        mean, std: buffers [1, C, 1, 1]; not learned.

    Raises:
        BadInputError: `mean` and `std` differ in length or hold values out of range. In `forward`: images have another
            number of channels (broadcasting would otherwise silently make three channels of one).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        check_normalization(mean, std)
        self.network = network
        self.register_buffer("mean", torch.tensor([float(v) for v in mean]).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor([float(v) for v in std]).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, num_classes] of images [B, C, H, W] in [0, 1]."""
        if x.ndim != 4 or x.shape[1] != self.mean.shape[1]:
            raise BadInputError(f"the model takes images [B, {self.mean.shape[1]}, H, W], got {list(x.shape)}")
        return logits_of(self.network((x - self.mean) / self.std))


def logits_of(output: object) -> Tensor:
    """The logits in a network's output: a tensor [B, C] or [B, C, 1, 1], or an object or a dict with ``logits``.

    Raises:
        BadInputError: it is something else, and which of its parts are the logits would be a guess.
    """
    if isinstance(output, Mapping):
        found = output.get("logits")
    else:
        found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise BadInputError(f"the network returns {_parts(output)} where logits [B, classes] are needed; {_WRAP}")
    return found.flatten(1) if found.ndim == 4 and found.shape[2:] == (1, 1) else found


_WRAP = (
    "wrap it in your factory: class Logits(torch.nn.Module) whose forward returns one tensor, e.g. return self.net(x)[0] for the "
    "first part of a tuple or self.net(x)['out'] for an entry of a dict"
)


def _parts(output: object) -> str:
    if isinstance(output, Mapping):
        return f"a dict of {one_line(', '.join(map(str, list(output)[:8])))}"
    if isinstance(output, tuple | list):
        parts = [
            f"[{', '.join(map(str, part.shape))}]" if isinstance(part, Tensor) else type(part).__name__
            for part in output[:8]
        ]
        return f"a {type(output).__name__} of {', '.join(parts)}"
    return f"an object of type {type(output).__name__}"


def check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise BadInputError unless there is one mean in [0, 1] and one positive, finite std for each channel."""
    if len(mean) != len(std) or not mean:
        raise BadInputError(f"a normalisation needs one mean and one std a channel, got {len(mean)} and {len(std)}")
    for value in mean:
        if not 0.0 <= value <= 1.0:
            raise BadInputError(
                f"mean {value:g} lies outside [0, 1], the range of the images; for 0-255 statistics, divide by 255"
            )
    for value in std:
        if not (math.isfinite(value) and value > 0.0):
            raise BadInputError(f"std must be a finite number above 0, got {value:g}")


def parse_normalization(text: str, in_channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Parse a normalisation into mean and std, one value per channel.

    Args:
        text: ``"imagenet"``, ``"cifar10"``, ``"none"`` (mean 0, std 1) or ``"m1,m2,m3/s1,s2,s3"``, in units of images
            in [0, 1].
        in_channels: number of values that mean and std must have.

    Raises:
        BadInputError: `text` is none of these, or has another number of values.
    """
    if text == "none":
        return (0.0,) * in_channels, (1.0,) * in_channels
    if text in NORMALIZATIONS:
        mean, std = (tuple(values) for values in NORMALIZATIONS[text])
    else:
        try:
            mean, std = (tuple(float(v) for v in part.split(",")) for part in text.split("/"))
        except ValueError:
            raise BadInputError(f"cannot read the normalisation {text!r}; give {FORMS}") from None
    if len(mean) != in_channels or len(std) != in_channels:
        raise BadInputError(
            f"normalisation {text!r} has {len(mean)} means and {len(std)} stds, the model takes {in_channels} "
            f"channels; give {FORMS}"
        )
    check_normalization(mean, std)
    return mean, std
