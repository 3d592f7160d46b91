"""The loop on a model whose every quantity is known in closed form, in numpy alone."""

from __future__ import annotations

import numpy as np
import pytest

from jboost.engine.loop import boost_batch
from jboost.engine.objectives import realness
from jboost.engine.presets import Settings
from jboost.engine.runner import Evaluation, Gradient
from jboost.engine.updates import PGD, SGLD

SHAPE = (1, 4, 4)


class BowlRunner:
    """f_c(x) = 6 - 4 ||x - target||^2, objective -f_c: one global optimum, gradients known exactly.

    `poison` marks images whose gradient is NaN; `overflow` those for which it is only in low precision.
    """

    name = device = "bowl"

    def __init__(self, poison: float | None = None, overflow: float | None = None):
        self.poison, self.overflow = poison, overflow
        self.dtype = "fp32" if overflow is None else "fp16"
        self.target = np.linspace(0.2, 0.8, 16, dtype=np.float32).reshape(SHAPE)
        self.calls = 0

    def put(self, array):
        return array

    def get(self, array):
        return array

    def evaluate(self, x, y):
        f_c = 6 - 4 * ((x - self.target) ** 2).sum(axis=(1, 2, 3))
        return Evaluation(f_c.astype(np.float32), np.zeros_like(y))

    def gradient(self, x, y, *, precise=False):
        self.calls += 1
        f_c, predicted = self.evaluate(x, y)
        grad = 8 * (x - self.target)
        first = x[:, 0, 0, 0]
        if self.poison is not None:
            grad = np.where((first == self.poison)[:, None, None, None], np.nan, grad)
        if self.overflow is not None and not precise:
            bad = first == np.float32(self.overflow)
            grad = np.where(bad[:, None, None, None], np.inf, grad)
            f_c = np.where(bad, np.inf, f_c)
        return Gradient(grad.astype(np.float32), f_c.astype(np.float32), -f_c, predicted)


def settings(update, *, l0=None, early_stop=False) -> Settings:
    return Settings(update=update, objective="logit", l0=l0, early_stop=early_stop, seed=0)


def starts(n: int = 6) -> np.ndarray:
    return np.random.default_rng(0).random((n, *SHAPE), dtype=np.float32)


def boost(runner, x0, how, **options):
    n = len(x0)
    return boost_batch(runner, x0, np.zeros(n, np.int64), how, index=options.pop("index", np.arange(n)), **options)


def test_pgd_is_algorithm_1() -> None:
    runner, x0 = BowlRunner(), starts()
    got = boost(runner, x0, settings(PGD(4, 0.1)))
    x = x0.astype(np.float64)
    for _ in range(4):
        g = 8 * (x - runner.target)
        x = np.clip(x - 0.1 * g / np.sqrt((g**2).sum(axis=(1, 2, 3), keepdims=True)), 0, 1)
    np.testing.assert_allclose(got.x, x, atol=1e-5)
    assert (got.steps == 4).all()
    assert runner.calls == 4


def test_sgld_without_noise_is_gradient_descent() -> None:
    runner, x0 = BowlRunner(), starts()
    got = boost(runner, x0, settings(SGLD(3, 0.05, noise=0.0)))
    x = x0.astype(np.float64)
    for _ in range(3):
        x = x - 0.05 * 8 * (x - runner.target)
    np.testing.assert_allclose(got.x, np.clip(x, 0, 1), atol=1e-5)


def test_zero_steps_change_nothing_and_still_report() -> None:
    x0 = starts()
    got = boost(BowlRunner(), x0, settings(PGD(0)))
    np.testing.assert_array_equal(got.x, x0)
    np.testing.assert_array_equal(got.before.class_logit, BowlRunner().evaluate(x0, np.zeros(6, int)).class_logit)


def test_early_stopping_leaves_real_images_alone_and_stops_the_others_when_they_get_there() -> None:
    runner, x0, l0 = BowlRunner(), starts(), 5.0
    x0[2] = runner.target + 0.01  # realness about 6: real from the start
    got = boost(runner, x0, settings(PGD(50, 0.05), l0=l0, early_stop=True))
    np.testing.assert_array_equal(got.x[2], x0[2])
    assert got.steps[2] == 0
    assert got.stopped.all()
    final = realness(runner.evaluate(got.x, np.zeros(6, int)).class_logit)
    assert (final >= l0).all()
    # One step fewer was not enough, for each image that moved.
    for i in np.flatnonzero(got.steps):
        shorter = boost(runner, x0[i : i + 1], settings(PGD(int(got.steps[i]) - 1, 0.05)))
        assert realness(runner.evaluate(shorter.x, np.zeros(1, int)).class_logit) < l0
    assert runner.calls < 50 + got.steps.sum()  # the loop ended when nobody moved any more


@pytest.mark.parametrize("update", [PGD(5, 0.1), SGLD(5, 0.01, noise=0.1)])
def test_an_image_goes_its_way_in_any_company(update) -> None:
    x0 = starts(8)
    together = boost(BowlRunner(), x0, settings(update, l0=5.0, early_stop=True))
    order = np.random.default_rng(3).permutation(8)
    shuffled = boost(BowlRunner(), x0[order], settings(update, l0=5.0, early_stop=True), index=order)
    np.testing.assert_array_equal(shuffled.x, together.x[order])
    for i in range(8):
        alone = boost(BowlRunner(), x0[i : i + 1], settings(update, l0=5.0, early_stop=True), index=np.array([i]))
        np.testing.assert_array_equal(alone.x[0], together.x[i])
        assert alone.steps[0] == together.steps[i]


def test_a_nan_gradient_costs_only_its_own_image() -> None:
    x0 = starts()
    clean = boost(BowlRunner(), x0, settings(PGD(3, 0.1)))
    got = boost(BowlRunner(poison=float(x0[1, 0, 0, 0])), x0, settings(PGD(3, 0.1)))
    assert got.failed.tolist() == [False, True, False, False, False, False]
    np.testing.assert_array_equal(got.x[1], x0[1])
    others = [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(got.x[others], clean.x[others])


def test_an_overflow_in_low_precision_is_retried_in_float32() -> None:
    x0 = starts()
    clean = boost(BowlRunner(), x0, settings(PGD(3, 0.1)))
    got = boost(BowlRunner(overflow=float(x0[4, 0, 0, 0])), x0, settings(PGD(3, 0.1), l0=None))
    np.testing.assert_array_equal(got.x, clean.x)
    assert got.retried.tolist() == [False] * 4 + [True, False]
    assert not got.failed.any()
    assert np.isfinite(got.before.class_logit).all()


def test_the_callback_sees_every_step() -> None:
    seen = []
    boost(BowlRunner(), starts(), settings(PGD(3, 0.1)), on_step=seen.append)
    assert [s["step"] for s in seen] == [1, 2, 3]
    assert seen[-1]["realness"].mean() > seen[0]["realness"].mean()
