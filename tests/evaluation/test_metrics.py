"""The formulas of evaluation against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch

from jboost.evaluation.metrics import kid, neighbours
from jboost.evaluation.metrics.bootstrap import change_interval, interval, resample_weights
from jboost.evaluation.metrics.frechet import Frechet, frechet_distances
from jboost.evaluation.metrics.inception_score import inception_scores
from jboost.evaluation.metrics.kid import kernel_distances
from jboost.evaluation.metrics.moments import Moments, RunningMoments, moments
from jboost.evaluation.metrics.neighbours import overlap


def nothing() -> None:
    pass


def points(n: int, d: int, *, seed: int, shift: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(d, d)) / d**0.5
    return torch.from_numpy((rng.normal(size=(n, d)) @ mix * scale + shift).astype(np.float32))


def ones(n: int) -> torch.Tensor:
    return torch.ones(1, n, dtype=torch.uint8)


def moments_of(x: torch.Tensor) -> Moments:
    return moments(x, x[:7].double().mean(0))


def fid_by_scipy(a: torch.Tensor, b: torch.Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(s @ t)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s + t - 2 * root.real))


def test_frechet_equals_scipys_square_root() -> None:
    a, b = points(400, 24, seed=1), points(300, 24, seed=2, shift=0.3, scale=1.4)
    (found,) = frechet_distances(a, Frechet(moments_of(b)), ones(400), on_step=nothing)
    assert float(found) == pytest.approx(fid_by_scipy(a, b), rel=1e-9)


def test_frechet_of_a_set_against_itself_is_zero_within_rounding() -> None:
    for n, d in ((500, 32), (40, 128)):  # the second covariance is singular
        x = points(n, d, seed=3, shift=5.0)
        (found,) = frechet_distances(x, Frechet(moments_of(x)), ones(n), on_step=nothing)
        assert 0 <= float(found) < 1e-5 * float(moments_of(x).sigma.trace())


def test_frechet_of_singular_covariances_equals_the_small_matrix_form() -> None:
    # For N < D: the nonzero eigenvalues of S_a S_b are those of A S_b A^T with S_a = A^T A.
    a, b = points(20, 64, seed=4), points(25, 64, seed=5)
    (found,) = frechet_distances(a, Frechet(moments_of(b)), ones(20), on_step=nothing)
    x, y = a.double().numpy(), b.double().numpy()
    s, t = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    rows = (x - x.mean(0)) / 19**0.5
    cross = np.sqrt(np.linalg.eigvalsh(rows @ t @ rows.T).clip(0)).sum()
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * cross
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_resampled_moments_are_those_of_the_repeated_rows() -> None:
    x = points(300, 8, seed=6, shift=100.0)
    w = resample_weights(300, 1, seed=0)[1]
    found = moments(x, x.double().mean(0), weights=w)
    repeated = np.repeat(x.double().numpy(), w.numpy(), axis=0)
    np.testing.assert_allclose(found.mu.numpy(), repeated.mean(0), rtol=1e-6)
    np.testing.assert_allclose(found.sigma.numpy(), np.cov(repeated, rowvar=False), rtol=1e-4, atol=1e-5)


def test_running_moments_do_not_lose_digits_far_from_zero() -> None:
    x = points(1000, 6, seed=7).double() + 1e6
    running = RunningMoments()
    for part in x.split(64):
        running.add(part)
    found = running.finish()
    assert found.count == 1000
    np.testing.assert_allclose(found.mu.numpy(), x.numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.sigma.numpy(), np.cov(x.numpy(), rowvar=False), rtol=1e-8, atol=1e-10)


def mmd_by_loops(x: np.ndarray, y: np.ndarray) -> float:
    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    own = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return own + other - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def test_kid_of_one_subset_equals_the_double_sum() -> None:
    x, y = points(13, 5, seed=8), points(13, 5, seed=9, shift=0.5)
    values, deviation = kernel_distances(x, y, ones(13), on_step=nothing)
    assert float(values[0]) == pytest.approx(mmd_by_loops(x.double().numpy(), y.double().numpy()), rel=1e-12)
    assert deviation == pytest.approx(0, abs=1e-12)


def test_kid_is_the_mean_over_random_subsets(monkeypatch) -> None:
    monkeypatch.setattr(kid, "SUBSET_SIZE", 6)
    monkeypatch.setattr(kid, "SUBSETS", 4)
    x, y = points(15, 5, seed=10), points(20, 5, seed=11, shift=0.5)
    values, deviation = kernel_distances(x, y, ones(15), on_step=nothing)
    rng = np.random.RandomState(2020)
    by_subset = []
    for _ in range(4):
        i, j = rng.choice(15, 6, replace=False), rng.choice(20, 6, replace=False)
        by_subset.append(mmd_by_loops(x.double().numpy()[i], y.double().numpy()[j]))
    assert float(values[0]) == pytest.approx(np.mean(by_subset), rel=1e-12)
    assert deviation == pytest.approx(np.std(by_subset), rel=1e-9)


def test_kid_of_a_resample_leaves_out_an_images_pairs_with_itself() -> None:
    x, y = points(9, 4, seed=12), points(9, 4, seed=13)
    weights = resample_weights(9, 1, seed=1)
    values, _ = kernel_distances(x, y, weights, on_step=nothing)
    drawn = np.repeat(np.arange(9), weights[1].numpy())
    a, b = x.double().numpy(), y.double().numpy()
    k = (a @ a.T / 4 + 1) ** 3
    pairs = [(i, j) for i in drawn for j in drawn if i != j]
    own = np.mean([k[i, j] for i, j in pairs])
    other = mmd_by_loops(b, b) + 2 * ((b @ b.T / 4 + 1) ** 3).mean()  # twice the mean over pairs of b
    expected = own - 2 * ((a @ b.T / 4 + 1) ** 3).mean(1)[drawn].mean() + other / 2
    assert float(values[1]) == pytest.approx(expected, rel=1e-9)


def test_inception_score_equals_its_definition() -> None:
    logits = points(205, 7, seed=14, scale=3.0)
    weights = resample_weights(205, 1, seed=2)
    values, deviation = inception_scores(logits, weights)
    z = logits.double().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    order = np.random.RandomState(2020).permutation(205)
    for row, value in zip(weights.numpy(), values, strict=True):
        scores = []
        for i in range(10):
            part = order[i * 205 // 10 : (i + 1) * 205 // 10]
            q = p[np.repeat(part, row[part])]
            scores.append(np.exp(np.mean(np.sum(q * np.log(q / q.mean(0)), 1))))
        assert float(value) == pytest.approx(np.mean(scores), rel=1e-9)
        if row.all():
            assert deviation == pytest.approx(np.std(scores), rel=1e-9)


def test_inception_score_lies_between_one_and_the_number_of_classes() -> None:
    same = inception_scores(torch.zeros(50, 5), ones(50))[0]
    sure = inception_scores(1e4 * torch.eye(5).repeat(500, 1), ones(2500))[0]
    assert float(same[0]) == pytest.approx(1)
    assert 4.9 < float(sure[0]) <= 5


def overlap_by_loops(real: np.ndarray, fake: np.ndarray, drawn: np.ndarray) -> tuple[float, float, float, float]:
    def radii(x: np.ndarray, k: int) -> list[float]:
        return [sorted(np.linalg.norm(x - row, axis=1))[k] for row in x]

    r3, r5, f3 = radii(real, 3), radii(real, 5), radii(fake, 3)
    distance = np.linalg.norm(real[:, None] - fake[None], axis=2)
    n, m = len(drawn), len(real)
    precision = sum(any(distance[i, j] <= r3[i] for i in range(m)) for j in drawn) / n
    recall = sum(any(distance[i, j] <= f3[j] for j in drawn) for i in range(m)) / m
    density = sum(distance[i, j] < r5[i] for i in range(m) for j in drawn) / (5 * n)
    coverage = sum(any(distance[i, j] < r5[i] for j in drawn) for i in range(m)) / m
    return precision, recall, density, coverage


def test_precision_recall_density_coverage_equal_the_definitions_for_the_set_and_for_resamples() -> None:
    real, fake = points(60, 6, seed=15), points(50, 6, seed=15, shift=0.4)
    fake = fake + 0.3 * points(50, 6, seed=16)
    weights = resample_weights(50, 3, seed=3)
    found = overlap(fake, real, weights, on_step=nothing)
    for r, row in enumerate(weights.numpy()):
        expected = overlap_by_loops(real.double().numpy(), fake.double().numpy(), np.repeat(np.arange(50), row))
        got = [float(v[r]) for v in (found.precision, found.recall, found.density, found.coverage)]
        assert got == pytest.approx(expected, abs=1e-12)
    assert 0 < float(found.recall[0]) < 1
    assert 0 < float(found.precision[0]) < 1


def test_blocks_change_nothing_and_are_counted() -> None:
    real, fake = points(97, 5, seed=17), points(83, 5, seed=18, scale=1.2)
    weights = resample_weights(83, 2, seed=4)
    whole = overlap(fake, real, weights, on_step=nothing)
    for block in (5, 83):
        calls: list[int] = []
        parts = overlap(fake, real, weights, block=block, on_step=lambda calls=calls: calls.append(1))
        assert len(calls) == neighbours.steps(83, 97, block)
        for name in ("precision", "recall", "density", "coverage"):
            np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), atol=1e-12)


def test_overlap_equals_the_authors_library() -> None:
    prdc = pytest.importorskip("prdc")
    real, fake = points(700, 32, seed=19), points(600, 32, seed=20, scale=1.1, shift=0.1)
    found = overlap(fake, real, ones(600), block=256, on_step=nothing)
    for k, names in ((3, ("precision", "recall")), (5, ("density", "coverage"))):
        expected = prdc.compute_prdc(real.double().numpy(), fake.double().numpy(), nearest_k=k)
        for name in names:
            assert float(getattr(found, name)[0]) == pytest.approx(expected[name], abs=1e-3)


def test_a_set_against_itself_overlaps_wholly() -> None:
    x = points(300, 10, seed=21, shift=20.0)
    found = overlap(x, x, ones(300), block=64, on_step=nothing)
    assert float(found.precision[0]) == float(found.recall[0]) == float(found.coverage[0]) == 1
    assert float(found.density[0]) == pytest.approx(1, abs=0.02)


def test_bootstrap_intervals_cover_the_distance_of_known_gaussians() -> None:
    deviations = torch.tensor([1.0, 0.6, 1.5], dtype=torch.float64)
    reference = Frechet(Moments(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)))
    shift = torch.tensor([0.5, 0.0, -0.3], dtype=torch.float64)
    truth = float((shift**2).sum() + ((deviations - 1) ** 2).sum())
    generator = torch.Generator().manual_seed(0)
    trials, covered = 60, 0
    for trial in range(trials):
        x = (torch.randn(400, 3, generator=generator, dtype=torch.float64) * deviations + shift).float()
        values = frechet_distances(x, reference, resample_weights(400, 60, seed=trial), on_step=nothing)
        found = interval(values)
        assert found is not None
        covered += found.low <= truth <= found.high
    assert covered >= 52  # 57 expected; the binomial deviation is 1.7


def test_intervals_hold_the_estimate_where_resampling_is_biased() -> None:
    x = points(60, 30, seed=22)
    values = frechet_distances(
        x, Frechet(moments_of(points(900, 30, seed=23))), resample_weights(60, 60, 0), on_step=nothing
    )
    found = interval(values)
    assert found is not None
    assert float(values[1:].min()) > float(values[0])  # every resample lies above the estimate
    assert found.low < float(values[0]) < found.high
    assert found.bias == pytest.approx(float(values[1:].mean() - values[0]))
    assert interval(values[:1]) is None
    assert interval(values, most=float(values[0])).high == float(values[0])


def test_paired_resamples_make_the_interval_of_a_change_narrow() -> None:
    reference = Frechet(moments_of(points(3000, 4, seed=24)))
    before = points(500, 4, seed=24, shift=0.6)
    after = before - 0.3
    paired = [frechet_distances(x, reference, resample_weights(500, 60, 0), on_step=nothing) for x in (before, after)]
    apart = frechet_distances(after, reference, resample_weights(500, 60, 1), on_step=nothing)
    low, high = change_interval(*paired)
    change = 100 * float(paired[1][0] / paired[0][0] - 1)
    assert low < change < high < 0
    wide = change_interval(paired[0], apart)
    assert high - low < 0.8 * (wide[1] - wide[0])
    assert change_interval(paired[0] - paired[0][0], paired[1]) is None  # reaches zero
    assert change_interval(paired[0][:1], paired[1][:1]) is None


def test_resamples_are_the_same_for_the_same_seed_and_size() -> None:
    a, b = resample_weights(100, 5, 7), resample_weights(100, 5, 7)
    assert torch.equal(a, b)
    assert not torch.equal(a, resample_weights(100, 5, 8))
    assert (a.long().sum(1) == 100).all()
    assert (a[0] == 1).all()
