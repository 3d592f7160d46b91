"""The order of images is a function of seed and position."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jboost.trainer.data import EpochOrder, MixedOrder

POSITIONS = st.integers(0, 10**12)
SEEDS = st.integers(0, 2**64 - 1)


@given(n=st.integers(1, 300), seed=SEEDS, epoch=st.integers(0, 10**9))
@settings(max_examples=50, deadline=None)
def test_an_epoch_holds_every_image_once(n: int, seed: int, epoch: int):
    order = EpochOrder(n, seed)
    seen = order.at(epoch * n + np.arange(n))
    np.testing.assert_array_equal(np.sort(seen), np.arange(n))


def test_epochs_seeds_and_lanes_differ():
    first = EpochOrder(100, 0).at(np.arange(100))
    others = [EpochOrder(100, 0).at(100 + np.arange(100)), EpochOrder(100, 1).at(np.arange(100))]
    others += [EpochOrder(100, 2**32).at(np.arange(100)), EpochOrder(100, 0, lane=1).at(np.arange(100))]
    for other in others:
        assert (first == other).mean() < 0.1
    assert (first == np.arange(100)).mean() < 0.1


def test_every_image_comes_first_equally_often():
    """Chi-squared over 8 images and 4,000 epochs; beyond 30 with a probability of 1e-4, and the seed is fixed."""
    first = EpochOrder(8, 5).at(np.arange(4000) * 8)
    counts = np.bincount(first, minlength=8)
    assert ((counts - 500) ** 2 / 500).sum() < 30


@given(
    sizes=st.lists(st.integers(1, 500), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.01, 100), min_size=4, max_size=4),
    seed=SEEDS,
    start=st.integers(0, 10**9),
    count=st.integers(1, 400),
)
@settings(max_examples=40, deadline=None)
def test_orders_are_functions_of_the_position(sizes, weights, seed: int, start: int, count: int):
    """In any portion, in any sequence: the same."""
    for order in (MixedOrder(sizes, weights[: len(sizes)], seed), EpochOrder(sum(sizes), seed)):
        positions = np.arange(start, start + count)
        whole = order.at(positions)
        assert whole.min() >= 0
        assert whole.max() < sum(sizes)
        np.testing.assert_array_equal(order.at(positions[::-1]), whole[::-1])
        np.testing.assert_array_equal(order.at(positions[count // 2 :]), whole[count // 2 :])


def test_weights_are_kept():
    sizes, weights = (40, 7, 1000), np.array([5.0, 1.0, 2.0])
    order = MixedOrder(sizes, weights, seed=3)
    owners = np.searchsorted(np.cumsum(sizes), order.at(np.arange(50_000)), side="right")
    share = weights / weights.sum()
    np.testing.assert_allclose(np.bincount(owners) / 50_000, share, atol=1e-4)
    # In short stretches too: never further from the mean than six binomial standard deviations.
    for n in (64, 1000):
        counts = np.stack([np.bincount(part, minlength=3) for part in owners[: 50_000 // n * n].reshape(-1, n)])
        assert (np.abs(counts - n * share) < 6 * np.sqrt(n * share * (1 - share))).all()
        assert (counts.std(0) > 0).all()


def test_a_set_that_is_mixed_in_is_gone_through_before_it_repeats():
    order = MixedOrder((40, 7), (3, 1), seed=1)
    indices = order.at(np.arange(25_000))
    for mine, n in ((indices[indices < 40], 40), (indices[indices >= 40] - 40, 7)):
        epochs = mine[: len(mine) // n * n].reshape(-1, n)
        np.testing.assert_array_equal(np.sort(epochs, 1), np.tile(np.arange(n), (len(epochs), 1)))
