"""The grid and its edges, the subset, the probe, and the rule that chooses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tune_cases import pictures

from jboost.booster import Booster
from jboost.engine.errors import FailureError
from jboost.engine.method.step import Gradient
from jboost.engine.method.updates import PGD
from jboost.export.checkpoints.load import load_checkpoint
from jboost.tuning.choice import choose
from jboost.tuning.grid import Combination, Family, Setting, edges, grow, tidy
from jboost.tuning.probe import step_sizes
from jboost.tuning.runs import Rules
from jboost.tuning.store import differences
from jboost.tuning.subset import Subset, spread


def test_the_subset_is_spread_over_the_classes() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [600, 300, 100]))
    positions = spread(labels, 1000, 100)
    assert (np.diff(positions) > 0).all()
    assert np.bincount(labels[positions]).tolist() == [60, 30, 10]
    assert spread(None, 10, 4).tolist() == [0, 3, 6, 9]
    assert spread(None, 3, 1000).tolist() == [0, 1, 2]


def setting(size: float, steps: int, fid: float = 1.0, noise: float | None = None, gradients: float = 0) -> Setting:
    return Setting(Combination("sgld", "logit", size, noise), steps, fid, gradients or steps)


@pytest.mark.parametrize(
    ("size", "steps", "noise", "found"),
    [
        (0.2, 5, 1e-4, []),
        (0.4, 5, 1e-4, [("--step-size", (0.8,))]),
        (0.1, 5, 1e-4, [("--step-size", (0.05,))]),
        (0.2, 10, 1e-4, [("--steps", (15, 20))]),
        (0.2, 5, 1e-3, [("--noise", (0.01,))]),
        (0.2, 1, 0.0, []),  # there are no fewer steps than one, and no less noise than none
    ],
)
def test_edges(size: float, steps: int, noise: float, found: list[tuple[str, tuple[float, ...]]]) -> None:
    family = Family("sgld", "logit", (0.1, 0.2, 0.4), (1, 5, 10), (0.0, 1e-4, 1e-3))
    assert [(e.option, e.beyond) for e in edges(family, setting(size, steps, noise=noise))] == found
    alone = Family("sgld", "logit", (size,), (steps,), (noise,))
    assert edges(alone, setting(size, steps, noise=noise)) == []  # a list of one value was chosen by the user


def test_what_grew_is_run() -> None:
    family = Family("sgld", "logit", (0.1, 0.2), (1, 5), (None,))
    grow(family, setting(0.2, 5))
    assert {(c.step_size, steps) for c, steps in family.runs()} == {(0.1, (1, 5)), (0.2, (1, 5, 8, 10)), (0.4, (1, 5))}
    assert edges(family, setting(0.2, 5)) == []


@pytest.mark.parametrize(
    ("steps", "noise", "found", "ran"),
    [
        (8, 0.02, [("--steps", (4,))], (4, 8, 16)),
        (16, 0.01, [("--steps", (24, 32)), ("--noise", (0.0, 0.001))], (8, 16, 24, 32)),
        (8, 0.01, [("--steps", (4,)), ("--noise", (0.0, 0.001))], (4, 8, 16)),
    ],
)
def test_lower_edges_grow_down_to_no_noise_and_one_step(steps, noise, found, ran) -> None:
    family = Family("sgld", "logit", (0.1,), (8, 16), (0.01, 0.02, 0.03))
    there = setting(0.1, steps, noise=noise)
    assert [(e.option, e.beyond) for e in grow(family, there)] == found
    assert dict(family.runs())[there.combination] == ran
    assert [c.noise for c, _ in family.runs()] == sorted(c.noise for c, _ in family.runs())
    assert edges(family, there) == []
    ends = Family("sgld", "logit", (0.1,), (1, 8), (0.0, 0.01))
    assert edges(ends, setting(0.1, 1, noise=0.0)) == []


@pytest.mark.parametrize(("steps", "below"), [(2, 1), (3, 1), (5, 2)])
def test_the_lowest_step_count_is_halved(steps: int, below: int) -> None:
    (edge,) = edges(Family("pgd", "logit", (0.1,), (steps, 9)), setting(0.1, steps))
    assert (str(edge), edge.beyond) == (f"{steps} is the smallest --steps tried", (below,))


def test_what_differs_is_said_as_options() -> None:
    old = {"images": 100, "positions": "a", "holdout": 0.5, "early_stop": True, "features_range": None}
    new = {"images": 50, "positions": "b", "holdout": None, "early_stop": None, "features_range": 255}
    assert differences(old, new) == (
        "--images was 100, is 50; --holdout was 0.5, is not given; --early-stop was on, is not given; "
        "--features-range was not given, is 255"
    )
    assert differences(old, old | {"positions": "b"}) == "other images of SAMPLES were tuned on"
    assert differences(old, old) == ""


class Drawn:
    """A yardstick whose resamples are given."""

    def __init__(self, values: dict[int, torch.Tensor]):
        self._values = values

    def resampled(self, features: torch.Tensor, resamples: int, seed: int, on_step: object) -> torch.Tensor:
        return self._values[int(features)]


def chosen_of(fids: list[float], noise: torch.Tensor, own: dict[int, torch.Tensor], resamples: int = 100) -> Setting:
    """The choice among settings of 1, 2, ... steps: each resample moves all FIDs by `noise`, and some by their `own` as well."""
    settings = [setting(0.1, steps, fid) for steps, fid in enumerate(fids, 1)]
    values = {
        s.steps: torch.cat([torch.tensor([s.fid]), s.fid + noise + own.get(s.steps, torch.zeros(len(noise)))]) for s in settings
    }  # fmt: skip
    features = {(s.combination, s.steps): torch.tensor(s.steps) for s in settings}
    return choose(settings, features, Drawn(values), resamples=resamples, seed=0, on_progress=lambda *_: None).chosen  # type: ignore[arg-type]


def test_the_cheapest_setting_that_is_as_good_as_the_best_is_chosen() -> None:
    common, own = torch.randn(100, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 100)
    # All but the first lie inside the best one's interval, of about +-2. The second is above the best in every resample: worse.
    assert chosen_of([9.0, 1.6, 1.5, 1.0, 1.3], common, {3: own}).steps == 3
    assert chosen_of([9.0, 1.6, 1.5, 1.0, 1.3], common, {}).steps == 4
    assert chosen_of([9.0, 1.6, 1.5, 1.0, 1.3], common, {2: own, 3: own}).steps == 2
    assert chosen_of([9.0, 1.6, 1.5, 1.0, 1.3], common, {2: own}, resamples=0).steps == 4


def test_the_sizes_to_try_lie_around_auto_and_both_updates_step_as_far(bundle, checkpoint) -> None:
    """The images are far from black and white, so no step is clamped."""
    images = (pictures(20, 5) / 4 + 96).astype(np.uint8)
    labels = np.arange(20) % 5
    with Booster(bundle, engine="eager", device="cpu") as booster:
        subset = Subset(checkpoint, images, labels, np.arange(20), np.arange(20))
        found = step_sizes(booster, subset, "logit", Rules(None, None, 0))
        auto = booster.boost(images, labels, PGD(4), objective="logit", step_size="auto").summary.step_size
    assert found["pgd"] == tuple(tidy(share * auto) for share in (0.25, 0.5, 1, 2))
    model = load_checkpoint(checkpoint).model
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).requires_grad_()
    logits = model(x)[torch.arange(20), torch.from_numpy(labels)]
    (gradient,) = torch.autograd.grad(logits.sum(), x)
    norm = float(gradient.flatten(1).norm(dim=1).mean())
    assert [size * norm for size in found["sgld"]] == pytest.approx(found["pgd"], rel=0.05)  # both to two digits


def test_sizes_that_cannot_be_known_are_to_be_named(bundle, checkpoint) -> None:
    images, labels = pictures(4, 5), np.arange(4)
    subset = Subset(checkpoint, images, labels, np.arange(4), np.arange(4))
    with Booster(bundle, engine="eager", device="cpu") as booster:
        booster.open_for = lambda settings, resolution: (Flat(), 4, {})  # type: ignore[method-assign]
        with pytest.raises(FailureError, match=SAID) as e:
            step_sizes(booster, subset, "logit", Rules(None, None, 0))
    assert "\n" not in str(e.value)


SAID = r"name them, such as --step-size 0\.05,0\.1,0\.2,0\.4 \(.*gradient of objective logit keeps its direction"


class Flat:
    """The same gradient everywhere."""

    batch_size, dtype = None, "fp32"

    def put(self, array):
        return array

    get = put

    def gradient(self, x, y):
        return Gradient(np.ones_like(x), np.zeros(len(x), np.float32), y, y)
