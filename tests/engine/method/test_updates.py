"""Properties of the updates, on numpy and torch alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jboost.engine.errors import BadInputError
from jboost.engine.method.settings import PRESETS, find_preset, make_update, resolve_settings
from jboost.engine.method.updates import PGD, SGLD, l2_norm

SHAPE = (3, 2, 4, 4)
unit = hnp.arrays(np.float32, SHAPE, elements=st.floats(0, 1, width=32))
gradients = hnp.arrays(np.float32, SHAPE, elements=st.floats(-(2.0**66), 2.0**66, width=32))
KEYS = {"index": np.arange(3), "step": np.zeros(3, np.int64)}


@given(x0=unit, x=unit, grad=gradients, eps=st.floats(0, 2), norm=st.sampled_from(["l2", "linf"]))
def test_pgd_stays_in_the_cube_and_in_the_ball(x0, x, grad, eps, norm) -> None:
    moved = PGD(1, 0.3, eps=eps, norm=norm).move(x, x0, grad, **KEYS) - x0
    inside = moved + x0
    assert inside.min() >= 0
    assert inside.max() <= 1
    distance = (
        np.abs(moved).max(axis=(1, 2, 3)) if norm == "linf" else np.sqrt((moved.astype(float) ** 2).sum(axis=(1, 2, 3)))
    )
    assert (distance <= eps + 1e-5).all()


@given(x=unit, grad=gradients)
def test_numpy_and_torch_move_alike(x, grad) -> None:
    for update in (PGD(1, 0.3, eps=0.2), PGD(1, 0.05, norm="linf", eps=0.01), PGD(1, 0.1), SGLD(1, 1e-3, noise=0.1)):
        a = update.move(x, x / 2, grad, **KEYS)
        t = torch.from_numpy
        b = update.move(t(x), t(x / 2), t(grad), index=torch.arange(3), step=torch.zeros(3, dtype=torch.int64))
        np.testing.assert_allclose(a, b.numpy(), rtol=1e-5, atol=1e-6)


def test_pgd_step_has_its_length_whatever_the_gradient_is_scaled_by() -> None:
    rng = np.random.default_rng(0)
    x = np.full(SHAPE, 0.5, np.float32)
    grad = rng.standard_normal(SHAPE).astype(np.float32)
    for scale in (1e-20, 1.0, 1e25):  # 1e25 squared overflows float32, 1e-20 squared vanishes
        moved = x - PGD(1, 0.1).move(x, x, grad * np.float32(scale), **KEYS)
        np.testing.assert_allclose(l2_norm(moved), 0.1, rtol=1e-5)
        np.testing.assert_allclose(moved / 0.1, grad / l2_norm(grad)[:, None, None, None], atol=1e-5)


def test_a_zero_gradient_moves_nothing() -> None:
    x = np.full(SHAPE, 0.5, np.float32)
    np.testing.assert_array_equal(PGD().move(x, x, np.zeros_like(x), **KEYS), x)


def test_sgld_does_not_clamp_on_the_way() -> None:
    x = np.full(SHAPE, 0.9, np.float32)
    np.testing.assert_allclose(SGLD(1, 1.0, noise=0.0).move(x, x, np.full_like(x, -0.5), **KEYS), 1.4)


def test_noise_has_the_deviation_asked_for() -> None:
    x = np.zeros((2, 3, 32, 32), np.float32)
    noisy = SGLD(1, 0.1, noise=0.5).move(x, x, x, index=np.arange(2), step=np.zeros(2, int))
    assert abs(noisy.std() - 0.5) < 0.02


@pytest.mark.parametrize(
    "make",
    [
        lambda: PGD(steps=-1),
        lambda: PGD(step_size=0),
        lambda: PGD(step_size=float("nan")),
        lambda: PGD(eps=-1),
        lambda: PGD(norm="l1"),
        lambda: SGLD(noise=float("inf")),
        lambda: make_update(update="adam"),
        lambda: make_update(noise=0.1),
        lambda: make_update(update="sgld", eps=1.0),
        lambda: find_preset("ct3"),
        lambda: resolve_settings(PGD(), objective="bce", l0=None, early_stop=True, seed=0),
        lambda: resolve_settings(PGD(), objective="bce", l0=None, early_stop=None, seed=-1),
    ],
)
def test_bad_values_are_refused_in_one_line(make) -> None:
    with pytest.raises(BadInputError) as e:
        make()
    assert "\n" not in str(e.value)


def test_presets_are_the_papers_table_5_and_stated_values_win() -> None:
    table = {
        "ct1": (35, 0.1),
        "ct2": (25, 0.1),
        "cd1": (15, 0.15),
        "cd2": (7, 0.14),
        "adm": (7, 0.14),
        "biggan": (15, 0.1),
        "iddpm": (7, 0.14),
    }
    for name, (steps, step_size) in table.items():
        assert make_update(find_preset(name)) == PGD(steps, step_size)
    assert make_update(PRESETS["ct1"], steps=3) == PGD(3, 0.1)
    released = PRESETS["released-sgld"]
    assert make_update(released) == SGLD(15, 0.002, 1e-4)
    assert make_update(released, noise=0.0) == SGLD(15, 0.002, 0.0)
    settings = resolve_settings(make_update(released), objective=None, l0=2.0, early_stop=None, seed=0, preset=released)
    assert (settings.objective, settings.early_stop) == ("logit", False)


def test_a_preset_of_the_other_update_lends_only_its_steps() -> None:
    assert make_update(PRESETS["ct1"], update="sgld") == SGLD(35, 0.002)
