"""Distances that rounding made are refused; equal sets give 0; small but true distances stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jboost.engine.errors import BadInputError
from jboost.evaluation import evaluate
from jboost.evaluation.metrics.frechet import Frechet
from jboost.evaluation.metrics.moments import Moments, moments
from jboost.evaluation.rounding import rounding_error

FACTORY = """
import torch

def pooled(x):
    return torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)

def plain():
    return pooled

def scaled():
    return lambda x: pooled(x) / 255

def constant():
    return lambda x: 1 + 1e-8 * pooled(x)

def wide():  # more dimensions than images
    weights = torch.randn(12, 200, generator=torch.Generator().manual_seed(0))
    return lambda x: pooled(x) @ weights
"""


class StyleGan(torch.nn.Module):
    """Stands in for StyleGAN's Inception script: 0 to 255 in; by itself 1,008 probabilities out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = torch.nn.Conv2d(3, 16, 3, stride=2)
        self.classes = torch.nn.Linear(64, 1008)

    def forward(self, x: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        x = torch.relu(self.features((x - 128) / 128))
        x = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return x if return_features else (4 * self.classes(x)).softmax(1)


def pictures(n: int, white: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, white, (n, 4, 4, 3), dtype=np.uint8).repeat(4, 1).repeat(4, 2)


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("rounding")
    (root / "round_features.py").write_text(FACTORY)
    real = pictures(60, 256, 0)
    np.savez(root / "real.npz", real)
    np.savez(root / "mixed.npz", real[::-1])
    np.savez(root / "made.npz", pictures(60, 200, 1))
    touched = real.copy()
    touched[0, :4, :4] ^= 8
    np.savez(root / "touched.npz", touched)
    for name, value in (("black", 0), ("white", 255)):
        np.savez(root / f"{name}.npz", np.full((50, 16, 16, 3), value, np.uint8))
    pooled = real.reshape(60, 2, 8, 2, 8, 3).mean((2, 4)).transpose(0, 3, 1, 2).reshape(60, 12) / 255
    np.savez(root / "stats.npz", mu=pooled.mean(0), sigma=np.cov(pooled.T))
    torch.jit.script(StyleGan()).save(root / "stylegan.pt")
    return root


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript


@pytest.fixture(autouse=True)
def there(desk, monkeypatch) -> None:
    monkeypatch.chdir(desk)


def distance(ref: str, samples: str, features: str, **options) -> tuple[float, list[str]]:
    how = {"metrics": ["fid"], "resamples": 0, "device": "cpu", "trust_code": True} | options
    result = evaluate(ref, [samples], features=features, **how)
    return result.samples[0].metrics["fid"].value, [w for w in result.warnings if "within rounding" in w]


@pytest.mark.parametrize("features", ["plain", "scaled", "wide"])
@pytest.mark.parametrize("samples", ["real.npz", "mixed.npz"])
def test_a_set_against_itself_is_0_and_said(samples, features) -> None:
    found, notes = distance("real.npz", samples, f"round_features:{features}")
    assert found == 0
    assert notes == [f"FID 0: the statistics of {samples} equal those of real.npz within rounding"]


def test_a_set_against_its_own_statistics_is_0() -> None:
    found, notes = distance("stats.npz", "real.npz", "round_features:plain")
    assert (found, len(notes)) == (0, 1)


def test_a_small_true_distance_is_shown() -> None:
    found, notes = distance("real.npz", "touched.npz", "round_features:plain")
    assert 0 < found < 1e-5
    assert notes == []


def test_sets_that_do_not_vary_have_a_distance_where_their_images_do_not() -> None:
    """A generator that gives one image, however bad."""
    assert distance("real.npz", "black.npz", "round_features:plain")[0] > 1
    assert distance("stats.npz", "black.npz", "round_features:plain")[0] > 1
    assert distance("white.npz", "black.npz", "round_features:plain")[0] == pytest.approx(12)
    assert distance("black.npz", "black.npz", "round_features:plain") == (
        0,
        ["FID 0: the statistics of black.npz equal those of black.npz within rounding"],
    )


@pytest.mark.parametrize("samples", ["made.npz", "real.npz"])
def test_features_that_are_one_constant_are_refused(samples) -> None:
    with pytest.raises(BadInputError, match=r"hardly vary .* every distance would measure rounding errors"):
        distance("real.npz", samples, "round_features:constant", features_range=1)


def test_features_of_another_scale_than_the_statistics_are_refused() -> None:
    with pytest.raises(BadInputError, match=r"no FID of made\.npz: .* different scales; .*give images as REF"):
        distance("stats.npz", "made.npz", "round_features:scaled")
    right, _ = distance("stats.npz", "made.npz", "round_features:plain")  # the first remedy
    assert right > 0.01
    assert distance("real.npz", "made.npz", "round_features:plain")[0] == pytest.approx(right, rel=1e-4)
    second, _ = distance("real.npz", "made.npz", "round_features:scaled")  # the other: both sides have one scale
    assert second == pytest.approx(right / 255**2, rel=1e-3)


def test_stylegans_script_is_refused_until_it_gets_its_range(jboost, desk) -> None:
    how = (
        "eval",
        "real.npz",
        "made.npz",
        "--features",
        "stylegan.pt",
        "--trust-code",
        "--bootstrap",
        0,
        "--metrics",
        "fid",
    )
    done = jboost(*how, cwd=desk)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "add --features-range 255" in done.stderr
    with pytest.raises(
        BadInputError, match=r"FID of made\.npz would be \de-\d+, .* another scale .*--features-range 255"
    ):
        distance("real.npz", "made.npz", "stylegan.pt", features_range=1)
    assert distance("real.npz", "made.npz", "stylegan.pt", features_range=255)[0] > 1e-6


@pytest.mark.parametrize(("n", "d", "rank"), [(400, 24, 24), (40, 128, 128), (300, 64, 5)])
def test_the_bound_holds_for_equal_sets_and_is_small(n, d, rank) -> None:
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) + 3
    x = torch.from_numpy(rows.astype(np.float32))

    def of(rows: torch.Tensor) -> Moments:
        return moments(rows, rows[:7].double().mean(0))

    one, other = of(x), of(x[torch.randperm(n, generator=torch.Generator().manual_seed(0))])
    bound = rounding_error(other, one)
    assert Frechet(one)(other) <= bound < 1e-4 * float(one.sigma.trace())
    assert Frechet(one)(of(x * 1.01)) > bound
