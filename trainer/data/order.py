"""The order of the images: a function of the seed and a position, so a resumed run needs only an integer.

Positions count the images that all processes together have drawn since training began. Randomness comes from the
engine's counter-based generator, which gives the same order with every version of numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from jboost.engine.method.noise import philox, split_seed

Indices = NDArray[np.int64]
_MASK32 = 0xFFFFFFFF


class Stream:
    """The last word of a counter: it names the purpose of the random words, so that no two purposes share words."""

    EPOCH, ROUND, AUGMENT, CROP = range(4)


class Order(Protocol):
    """The image at each position of the global order."""

    def at(self, positions: Indices) -> Indices:
        """The index int64 [n] of the image at each of `positions` (int64 [n], not negative)."""
        ...


@lru_cache(maxsize=16)  # each order uses two at the turn of an epoch; a permutation takes 8 bytes per image
def _permutation(n: int, seed: int, turn: int, stream: int, lane: int) -> Indices:
    """Shuffle 0 .. n-1: sort the numbers by one random 63-bit word each."""
    i = np.arange(n, dtype=np.int64)
    counter = (i, np.int64(turn & _MASK32), np.int64(turn >> 32), np.int64(stream | lane << 8))
    high, low, _, _ = philox(counter, split_seed(seed))
    shuffled: Indices = np.argsort(high << 31 | low >> 1, kind="stable")
    shuffled.flags.writeable = False
    return shuffled


class EpochOrder:
    """Every image once per epoch, shuffled anew in each epoch.

    Args:
        n: number of images.
        seed: in [0, 2^64).
        lane: different lanes of a seed give unrelated orders.
    """

    def __init__(self, n: int, seed: int, lane: int = 0):
        self.n, self.seed, self.lane = n, seed, lane

    def at(self, positions: Indices) -> Indices:
        """The index int64 [n] of the image at each of `positions`."""
        epochs, places = np.divmod(positions, self.n)
        out = np.empty_like(places)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            out[here] = _permutation(self.n, self.seed, int(epoch), Stream.EPOCH, self.lane)[places[here]]
        return out


class MixedOrder:
    """Several sets, mixed with weights: indices count through the sets in order.

    Positions come in rounds of `ROUND`. In a round, each set has turns in proportion to its weight (a whole number of
    them, at least one), in an order shuffled anew. Within a set, every image is seen once before any is seen again.

    Args:
        sizes: number of images of each set.
        weights: positive share of each set; they need not sum to 1.
        seed: in [0, 2^64).
    """

    ROUND = 10_000

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int):
        self.seed = seed
        self._orders = [EpochOrder(n, seed, lane=1 + k) for k, n in enumerate(sizes)]
        self._offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        self._shares = whole_shares(weights, self.ROUND)
        # The turns of a round before they are shuffled: each is a set's number (16 bits: numpy sorts in linear time).
        self._turns = np.repeat(np.arange(len(sizes), dtype=np.int16), self._shares)
        self._counts = np.concatenate([np.arange(share) for share in self._shares])

    def at(self, positions: Indices) -> Indices:
        """The index int64 [n], counted through the sets in order, of the image at each of `positions`."""
        rounds, places = np.divmod(positions, self.ROUND)
        out = np.empty_like(places)
        for turn in np.unique(rounds):
            here = np.flatnonzero(rounds == turn)
            turns = self._turns[_permutation(self.ROUND, self.seed, int(turn), Stream.ROUND, 0)]
            counts = np.empty_like(self._counts)  # the number of earlier turns of the same set in this round
            counts[np.argsort(turns, kind="stable")] = self._counts
            for k, order in enumerate(self._orders):
                mine = turns[places[here]] == k
                drawn = int(turn) * self._shares[k] + counts[places[here[mine]]]
                out[here[mine]] = self._offsets[k] + order.at(drawn)
        return out


def whole_shares(weights: Sequence[float], total: int) -> Indices:
    """Divide `total` in proportion to `weights` by largest remainders; each share is at least 1."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * total
    shares: Indices = np.maximum(np.floor(exact), 1).astype(np.int64)
    spare = int(total - shares.sum())
    if spare >= 0:
        shares[np.argsort(shares - exact, kind="stable")[:spare]] += 1
    else:  # many tiny weights were rounded up
        shares[np.argmax(shares)] += spare
    return shares
