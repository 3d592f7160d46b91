"""Counter-based noise: the same numbers in every engine, whatever the batch, the order or the device.

Philox 4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a 128-bit
counter and a 64-bit key into four 32-bit words. Here

    key     = (seed low, seed high)
    counter = (block, step, image number low, image number high)

and block b yields elements 4b .. 4b+3 of the image in [C, H, W] order. The arithmetic uses int64 and only operators of
the array API. torch has no unsigned 32-bit multiplication, and the int64 product of two 32-bit numbers would overflow,
so multiplications are split.
"""

from __future__ import annotations

import math
from typing import Any

from .arrays import Array, namespace

_MASK32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def _multiply(a: int, b: Array) -> tuple[Array, Array]:
    """High and low 32 bits of a * b, for a 32-bit constant and an int64 array of 32-bit values, within 49 bits."""
    low = (a & 0xFFFF) * b
    high = (a >> 16) * b
    return (high + (low >> 16)) >> 16, (((high & 0xFFFF) << 16) + low) & _MASK32


def philox(
    counter: tuple[Array, Array, Array, Array], key: tuple[int | Array, int | Array]
) -> tuple[Array, Array, Array, Array]:
    """Philox 4x32-10.

    Args:
        counter: four int64 arrays that broadcast together, values in [0, 2^32).
        key: two integers in [0, 2^32), or int64 arrays of such integers.

    Returns:
        Four int64 arrays, values in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK32, (k1 + _WEYL[1]) & _MASK32
    return c0, c1, c2, c3


def _box_muller(a: Array, b: Array, float32: Any) -> tuple[Array, Array]:
    """Two standard normals (float32) from two 32-bit words; it uses each word's upper 24 bits, exact in float32."""
    xp = namespace(a, b)
    u = xp.astype((a >> 8) + 1, float32) * 2.0**-24  # (0, 1], so the logarithm is finite
    v = xp.astype(b >> 8, float32) * 2.0**-24  # [0, 1)
    radius = xp.sqrt(-2.0 * xp.log(u))
    angle = (2.0 * math.pi) * v
    return radius * xp.cos(angle), radius * xp.sin(angle)


def split_seed(seed: int) -> tuple[int, int]:
    """The generator's key for a seed in [0, 2^64): the seed's lower and upper 32 bits."""
    return seed & _MASK32, (seed >> 32) & _MASK32


def normal(shape: tuple[int, int, int], *, key: Array, index: Array, step: Array) -> Array:
    """Standard normal noise for a batch of images.

    Args:
        shape: (C, H, W) of one image.
        key: int64 [2], see `split_seed`.
        index: int64 [B], each image's number, in [0, 2^63): its position in its sample set unless other numbers are given.
        step: int64 [B], each image's step, from 0.

    Returns:
        float32 [B, C, H, W], on the device of `index`.
    """
    xp = namespace(index)
    size = math.prod(shape)
    blocks = -(-size // 4)
    int64, device = index.dtype, index.device
    block = xp.arange(blocks, dtype=int64, device=device)[None, :]
    rows = xp.reshape(index, (-1, 1))
    steps = xp.reshape(step, (-1, 1))
    zero = xp.zeros_like(rows + block)
    counter = (zero + block, zero + steps, zero + (rows & _MASK32), zero + (rows >> 32))
    r0, r1, r2, r3 = philox(counter, (key[0], key[1]))
    n0, n1 = _box_muller(r0, r1, xp.float32)
    n2, n3 = _box_muller(r2, r3, xp.float32)
    flat = xp.reshape(xp.stack((n0, n1, n2, n3), axis=-1), (rows.shape[0], 4 * blocks))
    return xp.reshape(flat[:, :size], (rows.shape[0], *shape))
