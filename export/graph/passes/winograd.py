"""Compute 3x3 convolutions over small maps with fewer multiplications, by Winograd's minimal filtering.

Directly, a tile of m x m outputs needs 9 m^2 multiplications per pair of channels. After a change of basis of the
inputs, the kernel and the products, it needs (m + 2)^2, as matrix products over channels (Lavin and Gray, 2016, arXiv
1509.09308):

    Y = A^T [sum over channels (G g G^T) * (B^T d B)] A

G g G^T is a constant. The transforms of inputs and products are multiplications by constant matrices over the pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

from jboost.export.graph.convolutions import Convolution, aten, crop_and_add_bias, read_convolution
from jboost.export.graph.pixels import as_map, mix_pixels
from jboost.export.graph.rewriter import Rewriter, sizes

# Points at which the polynomials are evaluated, besides infinity, by tile side. For tiles of four, 3/4 and 3/2 halve
# the rounding error of the usual 1 and 2. Relative errors in float32 with 128 channels: 9e-7 instead of 1.9e-6; tiles
# of two have 3e-7 and the plain convolution 3.5e-7.
_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.75, -0.75, 1.5, -1.5)}

# Measured on two AVX-512 cores, in the graph of a ResNet-50 at 64 px, batch 32. Maps of 4x4 pixels and 256 channels
# take 0.45 of the time in tiles of two, and no less in tiles of four, which hold four times the kernel's numbers. Maps
# of 8x8 pixels and 128 channels gain only in tiles of four. At 16x16, moving the transformed maps costs the time saved
# on multiplications.
_MOST_PIXELS = 64
_LARGE_TILES = 16  # above this many pixels, tiles of four are worth their larger weights
# Largest share of the direct multiplications, transforms included. It admits 64 channels and more; fewer did not pay.
_MOST_MULTIPLICATIONS = 0.6
_SIDE = 16  # of the map that holds all tiles


def winograd(module: fx.GraphModule) -> int:
    """Rewrite 3x3 convolutions of stride 1 over small maps of many channels as Winograd's products.

    Half-precision convolutions stay as they are. The result is exact except for rounding. With an open batch this changes nothing.

    Returns:
        The number of convolutions rewritten.
    """
    r = Rewriter(module)
    for node in list(r.graph.nodes):
        conv = read_convolution(r, node)
        if conv is None or (tile := _tile(conv)) is None:
            continue
        with r.before(node):
            r.replace(node, _as_products(r, conv, tile))
    return r.done()


def _tile(conv: Convolution) -> int | None:
    """Return the side of the output tiles; None if Winograd does not apply or does not pay off."""
    batch, channels, height, width = sizes(conv.input)
    plain = not conv.transposed and conv.groups == 1 and tuple(conv.weight.shape[2:]) == (3, 3)
    same = set(conv.stride) == set(conv.padding) == set(conv.dilation) == {1}
    if not (plain and same and isinstance(batch, int)) or height * width > _MOST_PIXELS:
        return None
    if conv.is_half:  # the transforms need more digits
        return None

    def multiplications(tile: int) -> int:
        tiles, terms = -(-height // tile) * -(-width // tile), (tile + 2) ** 2
        transforms = tiles * terms * (height * width * channels + tile * tile * conv.outputs)
        return transforms + tiles * terms * channels * conv.outputs

    best = min((2, 4) if height * width > _LARGE_TILES else (2,), key=multiplications)
    direct = 9 * height * width * channels * conv.outputs
    return best if multiplications(best) <= _MOST_MULTIPLICATIONS * direct else None


def matrices(tile: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return (B^T [n, n], G [n, 3], A^T [tile, n]) of F(tile, 3), n = tile + 2, float64.

    A^T [(G g) * (B^T d)] is d convolved with g.
    """
    terms = tile + 2

    def evaluations(count: int) -> Tensor:
        """Return [terms, count]: evaluates a polynomial of `count` coefficients at each point, and its leading one."""
        rows = [[point**power for power in range(count)] for point in _POINTS[tile]]
        return torch.tensor([*rows, [0.0] * (count - 1) + [1.0]], dtype=torch.float64)

    # Toom and Cook multiply polynomials by evaluation, multiplication and interpolation; filtering is the transpose.
    inputs = torch.linalg.inv(evaluations(terms)).t()
    # Move whole powers of two from the inputs to the kernel: this rounds nothing and keeps the numbers near one.
    scale = 2.0 ** torch.log2(inputs.abs().amax(1, keepdim=True)).round()
    return inputs / scale, evaluations(3) * scale, evaluations(tile).t()


def _over_axis(transform: Tensor, size: int, tile: int) -> Tensor:
    """Return [tiles, n, size]: the input transform of every tile along an axis padded with a zero on either side."""
    count = -(-size // tile)
    rows = transform.new_zeros(count, len(transform), count * tile + 2)
    for i in range(count):
        rows[i, :, i * tile : i * tile + len(transform)] = transform
    return rows[:, :, 1 : size + 1]


def _products(r: Rewriter, v: fx.Node, weight: Tensor, terms: int, name: str) -> fx.Node:
    """Multiply rows [B, tiles * terms, C] of each term by its matrix, `weight` [terms * C_out, C, 1, 1].

    A 1x1 convolution does it, with the terms as groups and the tiles of all images as the pixels of one map: oneDNN packs
    its weights and needs no copies. 16 terms of 256 channels, 128 tiles, two cores: 0.58 ms on AVX-512 and 1.1 ms on
    AVX2; MKL's batched product takes 1.35 and 1.5 ms (AMD EPYC). A map one pixel wide can take twice as long.

    Returns:
        [B * tiles, terms, C_out].
    """
    batch, rows, channels = sizes(v)
    tiles = batch * rows // terms
    side = math.gcd(tiles, _SIDE)
    v = r.call(aten.reshape.default, v, [1, side, tiles // side, terms * channels])
    v = r.call(aten.permute.default, v, [0, 3, 1, 2])
    w = r.constant(weight, name)
    m = r.call(aten.convolution.default, v, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], terms)
    return r.call(aten.reshape.default, r.call(aten.permute.default, m, [0, 2, 3, 1]), [tiles, terms, -1])


def _as_products(r: Rewriter, conv: Convolution, tile: int) -> fx.Node:
    batch, channels, height, width = sizes(conv.input)
    dtype, outputs = conv.weight.dtype, conv.outputs
    down, across, terms = -(-height // tile), -(-width // tile), (tile + 2) ** 2
    into, kernel, back = matrices(tile)

    mixed = torch.einsum("tkp,ulq->tuklpq", _over_axis(into, height, tile), _over_axis(into, width, tile))
    mixed = mixed.reshape(-1, height * width).to(dtype)
    v = mix_pixels(r, conv.input, mixed, "winograd_inputs")  # [B, down * across * terms, C]

    # Computed in float64, like everything that is folded into weights.
    weight = torch.einsum("ki,ocij,lj->kloc", kernel, conv.weight.double(), kernel).reshape(-1, channels, 1, 1)
    m = _products(r, v, weight.to(dtype), terms, f"{conv.name}_winograd")  # [B * tiles, terms, C_out]

    home = torch.einsum("yk,xl->yxkl", back, back).reshape(1, -1, terms).to(dtype)
    one = r.call(aten.expand.default, r.constant(home, "winograd_outputs"), [sizes(m)[0], -1, -1])
    y = r.call(aten.reshape.default, r.call(aten.bmm.default, one, m), [batch, down, across, tile, tile, outputs])
    y = r.call(aten.permute.default, y, [0, 1, 3, 2, 4, 5])  # [B, down, tile, across, tile, C_out]
    return crop_and_add_bias(r, conv, as_map(r, y, down * tile, across * tile, outputs))
