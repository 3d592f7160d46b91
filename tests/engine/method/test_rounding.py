"""The ball around the input holds for the image that is written, and nothing changes where there is no ball."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jboost.engine.method.rounding import limit_of, round_within, why_nothing_moves
from jboost.engine.method.updates import PGD, SGLD, Update, project_l2

SHAPE = (3, 3, 6, 5)
KEYS = {"index": np.arange(3), "step": np.zeros(3, np.int64)}
inputs = hnp.arrays(np.uint8, SHAPE)
moves = hnp.arrays(np.float32, SHAPE, elements=st.floats(-1, 1, width=32))
radii = st.floats(0, 2) | st.sampled_from([8 / 255, 1 / 255, 0.03, 0.02, 0.0])
scales = st.sampled_from([1.0, 0.1, 0.01, 1e-3])


def levels(update: Update, x, x0):
    return round_within(x, x0, limit_of(update.kind, float(update.controls().radius)))


@given(start=inputs, move=moves, eps=radii, scale=scales)
def test_written_levels_stay_in_the_box(start, move, eps, scale) -> None:
    x0, update = start / np.float32(255), PGD(1, scale, eps=eps, norm="linf")
    x = update.move(x0, x0, move, **KEYS)
    got = levels(update, x, x0)
    assert (np.abs(got - start) <= eps * 255 * (1 + 1e-5)).all()
    # No further from the iterate than the nearest level inside: 7.65 levels become 7.
    most = int(eps * 255 * (1 + 1e-6))
    np.testing.assert_array_equal(got, np.clip(np.rint(255 * x), start.astype(int) - most, start.astype(int) + most))


@given(start=inputs, move=moves, eps=radii, scale=scales)
def test_written_levels_stay_in_the_l2_ball(start, move, eps, scale) -> None:
    x0, update = start / np.float32(255), PGD(1, 0.1, eps=eps)
    x = project_l2(np.clip(x0 + move * np.float32(scale), 0, 1), x0, np.float32(eps))
    got, nearest = levels(update, x, x0), np.rint(255 * x)
    changed = got - start.astype(np.float64)
    assert (np.sqrt((changed**2).sum((1, 2, 3))) <= eps * 255 * (1 + 1e-5)).all()
    fits = ((nearest - start) ** 2).sum((1, 2, 3)) <= (eps * 255) ** 2
    np.testing.assert_array_equal(got[fits], nearest[fits])
    # Elsewhere a change is shortened, and never turned round.
    assert (np.abs(changed) <= np.abs(nearest - start)).all()
    assert (changed * (x - x0) >= 0).all()


@given(start=inputs, move=moves, update=st.sampled_from([PGD(eps=0.1), PGD(eps=0.03, norm="linf"), PGD(), SGLD()]))
def test_numpy_and_torch_agree_to_the_bit_and_each_image_is_rounded_alone(start, move, update) -> None:
    x0 = start / np.float32(255)
    x = project_l2(np.clip(x0 + move, 0, 1), x0, np.float32(0.1))
    got = levels(update, x, x0)
    np.testing.assert_array_equal(levels(update, torch.from_numpy(x), torch.from_numpy(x0)).numpy(), got)
    np.testing.assert_array_equal(levels(update, x[1:2], x0[1:2])[0], got[1])


@given(start=inputs, move=moves, update=st.sampled_from([PGD(), PGD(norm="linf"), SGLD(noise=0.1)]))
def test_without_a_ball_every_value_is_rounded_to_nearest(start, move, update) -> None:
    x0 = start / np.float32(255)
    np.testing.assert_array_equal(levels(update, x0 + move, x0), np.rint(np.clip(x0 + move, 0, 1) * np.float32(255)))


@pytest.mark.parametrize("eps", [0.1, 0.5, 2.0])
def test_little_of_an_l2_ball_is_given_away(eps) -> None:
    """Cutting off every fraction would stay inside as well, and give away a quarter of such a ball."""
    rng = np.random.default_rng(0)
    x0 = rng.integers(64, 192, (8, 3, 32, 32)).astype(np.float32) / np.float32(255)
    x = project_l2(x0 + rng.standard_normal(x0.shape).astype(np.float32), x0, np.float32(eps))
    distance = np.sqrt(((levels(PGD(eps=eps), x, x0) / 255 - x0.astype(np.float64)) ** 2).sum((1, 2, 3)))
    assert (distance <= eps * (1 + 1e-5)).all()
    assert (distance > 0.98 * eps).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_eps_below_one_level_is_said_with_the_smallest_that_is_none(norm) -> None:
    why = why_nothing_moves(PGD(eps=0.0019, norm=norm))
    assert why is not None
    assert "eps 0.0019" in why
    assert "changes a pixel is 0.00393" in why
    assert why_nothing_moves(PGD(eps=0.00393, norm=norm)) is None  # the remedy
    for update in (PGD(), PGD(0, eps=0.001), SGLD(), PGD(eps=1 / 255, norm=norm)):
        assert why_nothing_moves(update) is None
