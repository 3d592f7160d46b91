"""Multiply the pixels of small maps by a constant matrix, the same for every image and channel."""

from __future__ import annotations

from torch import Tensor, fx

from .convolutions import aten
from .rewriter import Rewriter, sizes


def mix_pixels(r: Rewriter, x: fx.Node, matrix: Tensor, name: str) -> fx.Node:
    """Multiply a constant matrix [rows, H*W] with the pixels of every image of `x` [B, C, H, W]; returns [B, rows, C].

    The batch must be fixed. Channels come last, as in Inductor's maps. A pixel that is not finite spreads to every row
    of its own image and to no other image.
    """
    batch, channels, height, width = sizes(x)
    pixels = r.call(aten.reshape.default, r.call(aten.permute.default, x, [0, 2, 3, 1]), [-1, height * width, channels])
    one = r.call(aten.unsqueeze.default, r.constant(matrix, name), 0)
    return r.call(aten.bmm.default, r.call(aten.expand.default, one, [batch, -1, -1]), pixels)


def as_map(r: Rewriter, x: fx.Node, height: int, width: int, channels: int) -> fx.Node:
    """Reshape a tensor whose numbers are in [B, H, W, C] order to [B, C, H, W]."""
    x = r.call(aten.reshape.default, x, [-1, height, width, channels])
    return r.call(aten.permute.default, x, [0, 3, 1, 2])
