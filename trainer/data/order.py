"""The order in which images are seen: a function of the seed and a position, so that a run that resumes needs an integer.

Positions count the images that all processes together have drawn since training began. Randomness comes from the engine's
counter-based generator, which gives the same order with every version of numpy.
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
    """The last word of a counter: what the random words are for, so that no two purposes share theirs."""

    EPOCH, ROUND, AUGMENT = range(3)


class Order(Protocol):
    """Which image stands where in the global order."""

    def at(self, positions: Indices) -> Indices:
        """The index int64 [n] of the image at each of `positions` (int64 [n], not negative)."""
        ...


@lru_cache(maxsize=16)  # two for each order in use at the turn of an epoch; a permutation takes 8 bytes an image
def _permutation(n: int, seed: int, turn: int, stream: int, lane: int) -> Indices:
    """0 .. n-1 shuffled: sorted by a random 63-bit word each."""
    i = np.arange(n, dtype=np.int64)
    counter = (i, np.int64(turn & _MASK32), np.int64(turn >> 32), np.int64(stream | lane << 8))
    high, low, _, _ = philox(counter, split_seed(seed))
    shuffled: Indices = np.argsort(high << 31 | low >> 1, kind="stable")
    shuffled.flags.writeable = False
    return shuffled


class EpochOrder:
    """Every image once before any is seen again, shuffled anew in each epoch.

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
    """Several sets, mixed with weights: an index counts through them all, the first set's images first.

    Positions come in rounds of `ROUND`. A round holds each set as often as its weight says (to the nearest whole number, at least
    once), in an order shuffled anew; within a set every image is seen once before any is seen again.

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
        # A round before it is shuffled: whose turn it is (in 16 bits, which numpy sorts in linear time).
        self._turns = np.repeat(np.arange(len(sizes), dtype=np.int16), self._shares)
        self._counts = np.concatenate([np.arange(share) for share in self._shares])

    def at(self, positions: Indices) -> Indices:
        """The index int64 [n], in all sets one after the other, of the image at each of `positions`."""
        rounds, places = np.divmod(positions, self.ROUND)
        out = np.empty_like(places)
        for turn in np.unique(rounds):
            here = np.flatnonzero(rounds == turn)
            turns = self._turns[_permutation(self.ROUND, self.seed, int(turn), Stream.ROUND, 0)]
            counts = np.empty_like(self._counts)  # how many turns the same set had in this round before
            counts[np.argsort(turns, kind="stable")] = self._counts
            for k, order in enumerate(self._orders):
                mine = turns[places[here]] == k
                drawn = int(turn) * self._shares[k] + counts[places[here[mine]]]
                out[here[mine]] = self._offsets[k] + order.at(drawn)
        return out


def whole_shares(weights: Sequence[float], total: int) -> Indices:
    """`total` divided in proportion to `weights`, by largest remainders; at least 1 each."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * total
    shares: Indices = np.maximum(np.floor(exact), 1).astype(np.int64)
    spare = int(total - shares.sum())
    if spare >= 0:
        shares[np.argsort(shares - exact, kind="stable")[:spare]] += 1
    else:  # many tiny weights were rounded up
        shares[np.argmax(shares)] += spare
    return shares
