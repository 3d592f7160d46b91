"""What a built network tells of itself: image channels of its first layer, outputs of its last."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import Tensor, nn


def first_layer(network: nn.Module) -> tuple[str, nn.Conv2d | nn.Linear] | None:
    """The first convolution, else the first linear layer, in the order of definition; None if there is neither."""
    convolutions = ((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
    linear = ((n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear))
    found: Iterator[tuple[str, nn.Conv2d | nn.Linear]]
    for found in (convolutions, linear):
        if (first := next(found, None)) is not None:
            return first
    return None


def image_channels(network: nn.Module) -> int | None:
    """The number of image channels; None if its first layer does not tell."""
    first = first_layer(network)
    if first is None:
        return None
    layer = first[1]
    if isinstance(layer, nn.Conv2d):
        return layer.in_channels
    # A linear layer over pixels, square patches or images: a side of whole pixels, for three channels or for one.
    for channels in (3, 1):
        side = math.isqrt(layer.in_features // channels)
        if side * side * channels == layer.in_features:
            return channels
    return None


def channels_of_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> int | None:
    """The image channels of the weights that belong to the network's first convolution; None if they do not tell."""
    first = first_layer(network)
    if first is None or not isinstance(first[1], nn.Conv2d):
        return None
    tensor = weights.get(f"{first[0]}.weight")
    return None if tensor is None or tensor.ndim != 4 else tensor.shape[1] * first[1].groups


def outputs(network: nn.Module) -> int | None:
    """The number of outputs of the last layer in the order of definition; None if no layer tells. The output decides."""
    last = None
    for module in network.modules():
        if isinstance(module, nn.Linear):
            last = module.out_features
        elif isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            last = module.out_channels
    return last
