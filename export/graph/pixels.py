"""Maps of a few pixels as matrices: a constant matrix over the pixels of each image, the same for every channel."""

from __future__ import annotations

from torch import Tensor, fx

from .convolutions import aten
from .rewriter import Rewriter, sizes


def mix_pixels(r: Rewriter, x: fx.Node, matrix: Tensor, name: str) -> fx.Node:
    """[B, rows, C]: a constant matrix [rows, H*W] times the pixels of every image of `x` [B, C, H, W].

    The batch must be fixed. Channels come last, which is how Inductor keeps its maps. A pixel that is not finite reaches every row
    of its own image, and no other image.
    """
    batch, channels, height, width = sizes(x)
    pixels = r.call(aten.reshape.default, r.call(aten.permute.default, x, [0, 2, 3, 1]), [-1, height * width, channels])
    one = r.call(aten.unsqueeze.default, r.constant(matrix, name), 0)
    return r.call(aten.bmm.default, r.call(aten.expand.default, one, [batch, -1, -1]), pixels)


def as_map(r: Rewriter, x: fx.Node, height: int, width: int, channels: int) -> fx.Node:
    """[B, C, H, W] from anything whose numbers lie as [B, H, W, C]."""
    x = r.call(aten.reshape.default, x, [-1, height, width, channels])
    return r.call(aten.permute.default, x, [0, 3, 1, 2])
