"""The length of the generated attack: growth by AUC against scikit-learn, over processes, accumulated batches and a restart."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from children import together
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from train_cases import CLASSES, configuration, problem, real_images, run, run_on_processes, start_run

from jboost.engine.method.updates import PGD
from jboost.trainer.adversarial import AdversarialConfig, attack, growth_scores, make_raters
from jboost.trainer.attack import Rater
from jboost.trainer.checkpoint import read_safetensors
from jboost.trainer.growth import AttackLength, roc_auc
from jboost.trainer.learner import Learner
from jboost.trainer.machine import make_accelerator
from jboost.trainer.run import LAST
from jboost.trainer.start import initial_model
from jboost.trainer.watch import Hooks

# Dual adversarial training in small. Eight images a batch, so the AUC is averaged over two batches.
DAT = {
    "generated_labels": "paired",
    "batch_norm": "frozen",
    "score": "energy",
    "attack_score": "logit",
    "real_attack_loss": "ce",
    "bce_real": 0.0,
    "clean_bce_real": 0.5,
    "bce_generated": 0.5,
    "ce_generated": 0.0,
    "generated_steps": 0,
    "generated_step_size": 0.3,
    "generated_eps": "inf",
    "generated_stop": "never",
    "generated_max_steps": 4,
    "grow_auc": 0.7,
    "grow_images": 16,
    "learning_rate": 0.3,
}


# --- the area under the curve ----------------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    real=st.lists(st.integers(-3, 3), min_size=1, max_size=20),
    attacked=st.lists(st.integers(-3, 3), min_size=1, max_size=20),
)
def test_the_area_is_that_of_scikit_learn_with_ties(real: list[int], attacked: list[int]) -> None:
    truth = [1] * len(real) + [0] * len(attacked)
    expected = roc_auc_score(truth, real + attacked)
    assert roc_auc(real, attacked) == pytest.approx(expected, abs=1e-12)
    assert roc_auc(real[::-1], sorted(attacked)) == roc_auc(real, attacked)  # to the bit


def test_the_area_of_extreme_scores() -> None:
    assert roc_auc([2.0, 3.0], [1.0]) == 1.0
    assert roc_auc([np.inf, 0.0], [np.inf, np.inf]) == 0.25
    assert np.isnan(roc_auc([np.nan], [1.0]))


# --- the rule of growth ----------------------------------------------------------------------------------------------------------


def independently(aucs: list[float], *, start: int, threshold: float, window: int, limit: int) -> list[int]:
    """Steps before each iteration, from the whole history each time."""
    steps, since, out = start, 0, []
    for i in range(len(aucs) + 1):
        recent = aucs[max(since, i - window) : i]
        if len(recent) == window and sum(recent) / window >= threshold and steps < limit:
            steps, since = steps + 1, i
        out.append(steps)
    return out


@given(
    aucs=st.lists(st.sampled_from([0.25, 0.5, 0.75, 1.0]), max_size=40),
    start=st.integers(0, 2),
    images=st.integers(1, 40),
)
def test_the_attack_grows_once_the_mean_of_a_full_window_reaches_the_threshold(
    aucs: list[float], start: int, images: int
) -> None:
    """A mean equal to the threshold has reached it; every added step starts another window; the limit holds."""
    config = AdversarialConfig(
        generated_attack=PGD(steps=start), grow_auc=0.75, grow_images=images, max_steps=4, stop_at_pair=False
    )
    length = AttackLength(config, batch_size=8)
    seen = [length.at(0)]
    for i, auc in enumerate(aucs):
        length.see(auc)
        resumed = AttackLength(config, batch_size=8)
        resumed.restore(length.facts())
        length = resumed
        seen.append(length.at(i + 1))
    assert seen == independently(aucs, start=start, threshold=0.75, window=-(-images // 8), limit=4)


def test_a_limit_holds_for_growth_by_iterations_too() -> None:
    config = AdversarialConfig(generated_attack=PGD(steps=1), grow_every=10, max_steps=3)
    length = AttackLength(config, batch_size=8)
    assert [length.at(i) for i in (0, 9, 10, 29, 30, 500)] == [1, 1, 2, 3, 3, 3]


# --- in training -----------------------------------------------------------------------------------------------------------------


def make_learner(folder: Path, **values: object) -> Learner:
    config = configuration(**(DAT | values))
    model, _ = initial_model(arch="small_resnet4", num_classes=CLASSES, in_channels=1, normalize="0.5/0.5", seed=0)
    return Learner(model, config, make_accelerator(config, folder))


def batches(
    seed: int, size: int
) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], list[tuple[torch.Tensor, torch.Tensor]]]:
    """Eight real images and eight of noise, whose labels are those of no image, in parts of `size`."""
    rng = np.random.default_rng(seed)
    images, labels = real_images()
    picks = rng.permutation(40)[:8]
    real = torch.from_numpy(images[picks]).permute(0, 3, 1, 2).float() / 255
    noise = torch.from_numpy(rng.random((8, 1, 8, 8), np.float32))
    y, nothing = torch.from_numpy(labels[picks]), torch.zeros(8, dtype=torch.int64)
    parts = [slice(i, i + size) for i in range(0, 8, size)]
    return [(real[p], y[p]) for p in parts], [(noise[p], nothing[p]) for p in parts]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_attacks_as_the_paper_of_dual_training_says(tmp_path: Path, accumulate: int) -> None:
    """Steps, AUC and loss of each iteration, from the weights before it, in code of its own with scikit-learn's AUC."""
    learner = make_learner(tmp_path, accumulate=accumulate)
    aucs: list[float] = []
    grown = []
    for i in range(14):
        model = copy.deepcopy(learner.model).eval()
        real, noise = batches(i, 8 // accumulate)
        x, y = (torch.cat(part) for part in zip(*real, strict=True))
        attacked = torch.cat([images for images, _ in noise])
        steps = independently(aucs, start=0, threshold=0.7, window=2, limit=4)[-1]
        for _ in range(steps):
            attacked = attacked.requires_grad_(True)
            (grad,) = torch.autograd.grad(model(attacked).gather(1, y[:, None]).sum(), attacked)
            attacked = (attacked + 0.3 * grad / grad.flatten(1).norm(dim=1)[:, None, None, None]).detach().clamp(0, 1)
        with torch.no_grad():
            f_real, f_attacked = model(x), model(attacked)
        scores = torch.cat([f_real.gather(1, y[:, None]), f_attacked.gather(1, y[:, None])]).flatten()
        aucs.append(float(roc_auc_score([1] * 8 + [0] * 8, scores.numpy())))
        # One mean over both halves, as their code has it.
        energies = torch.cat([f_real.logsumexp(1), f_attacked.logsumexp(1)])
        target = torch.tensor([1.0] * 8 + [0.0] * 8)
        bce = torch.nn.functional.binary_cross_entropy_with_logits(energies, target)
        seen = learner.step(i, iter(real), iter(noise))
        assert float(seen["auc"]) == pytest.approx(aucs[-1], abs=1e-6)
        loss, ce_real, taken = (float(seen["report"][k]) for k in (0, 3, 8))
        assert taken == steps
        assert loss == pytest.approx(float(bce) + ce_real, rel=1e-4)
        grown.append(steps)
    assert grown[0] == 0
    assert 2 <= grown[-1] <= 4
    assert learner.state()[1]["growth"]["steps"] == independently(aucs, start=0, threshold=0.7, window=2, limit=4)[-1]


def test_the_attack_climbs_the_logit_though_the_loss_reads_the_energy(tmp_path: Path) -> None:
    learner = make_learner(tmp_path)
    config = configuration(**DAT).adversarial
    raters = make_raters(config, lambda score: Rater(learner.model, score))
    (real,), (noise,) = batches(0, 8)
    theirs = (noise[0], real[1])
    batch = attack(raters, real, theirs, config, 3)
    assert batch.taken.tolist() == [3] * 8  # also those that are rated above their pair
    with torch.no_grad():
        before, after = (
            learner.model.eval()(x).gather(1, real[1][:, None])[:, 0] for x in (noise[0], batch.generated_adv)
        )
    assert (after > before).all()
    torch.testing.assert_close(growth_scores(raters, batch)[1], after)
    assert config.generated_attack.eps is None
    energy = make_raters(configuration(**{**DAT, "attack_score": None}).adversarial, lambda s: Rater(learner.model, s))
    assert torch.allclose(energy.discriminator(*real), learner.model.eval()(real[0]).logsumexp(1))


def test_the_labels_of_paired_images_play_no_part(tmp_path: Path) -> None:
    """Paired images and images that have their pair's labels take the same step, to the bit."""
    after = []
    for kind in ("paired", "own"):
        learner = make_learner(tmp_path, generated_labels=kind, ce_generated=1.0, generated_steps=2)
        real, noise = batches(3, 8)
        labelled = [(x, y) for (x, _), (_, y) in zip(noise, real, strict=True)]
        learner.step(0, iter(real), iter(noise if kind == "paired" else labelled))
        after.append(learner.state()[0])
    assert all(torch.equal(value, after[1][name]) for name, value in after[0].items())


def test_validation_boosts_paired_images_towards_the_labels_of_real_ones(tmp_path: Path) -> None:
    """The held-out images of no class too; PGD climbs the logit of the pair's class."""
    data = problem()
    assert data.held_out is not None
    real, noise = data.held_out
    noise.labels[:] = 0
    seen = []
    hooks = Hooks(on_validation=lambda _, validated: seen.append(validated))
    for aim in ("ce", "logit"):
        config = configuration(**DAT, iterations=1, validate_every=1, boost_steps=3, boost_objective=aim)
        run(config, tmp_path / aim, data=data, hooks=hooks)
    other, validated = seen
    assert not np.array_equal(other.boosted, validated.boosted)
    assert validated.labels.tolist() == real.labels.tolist()
    assert len(set(real.labels.tolist())) == CLASSES
    learned, _ = initial_model(arch=config.arch, num_classes=CLASSES, in_channels=1, normalize="0.5/0.5", seed=0)
    learned.load_state_dict(read_safetensors(tmp_path / "logit" / LAST)[0], strict=False)  # but mean and std
    learned.eval()

    def logits(pixels: np.ndarray) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = learned(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
        return found.gather(1, torch.from_numpy(real.labels)[:, None])

    assert (logits(validated.boosted) > logits(validated.generated)).all()


def test_an_interrupted_run_grows_as_an_uninterrupted_one(tmp_path: Path) -> None:
    """... to the bit, from a state with a window half full."""
    config = configuration(**DAT, iterations=11, validate_every=4, save_every=1)

    def cut(iteration: int, figures: object) -> None:
        if iteration == 7:
            raise RuntimeError("cut")

    run(config, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="cut"):
        run(config, tmp_path / "cut", hooks=Hooks(on_log=cut))
    run(config, tmp_path / "cut", resume=True)
    for name in (LAST, "state.safetensors", "log.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    log = (tmp_path / "whole" / "log.jsonl").read_text()
    assert '"attack_steps": 0.0' in log
    assert '"attack_steps": 2.0' in log


def test_two_processes_measure_the_area_over_the_whole_batch(tmp_path: Path) -> None:
    config = configuration(**DAT, iterations=7, validate_every=7)
    together(start_run(config, tmp_path / "one"))
    run_on_processes(config, tmp_path / "two", 2)
    one, two = (
        list(map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())) for name in ("one", "two")
    )
    figures = [[(line["auc"], line["attack_steps"]) for line in log if line["kind"] == "train"] for log in (one, two)]
    assert figures[0] == figures[1]
    assert len({auc for auc, _ in figures[0]}) > 2
    assert figures[0][-1][1] >= 1


# --- what the code of the paper has besides --------------------------------------------------------------------------------------


def test_the_average_warms_up(tmp_path: Path) -> None:
    """Update n, counted from 0, has the decay (1 + n) / (10 + n) up to that of --ema; the first one copies."""
    learner = make_learner(tmp_path, ema=0.25, ema_warmup=True, learning_rate=0.1)
    expected = None
    for n in range(5):
        real, noise = batches(n, 8)
        learner.step(n, iter(real), iter(noise))
        weight = learner.model.network.conv1.weight.detach().clone()
        decay = (1 + n) / (10 + n) if n < 2 else 0.25
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    torch.testing.assert_close(learner.kept.network.conv1.weight, expected)


def test_nesterov_moves_further_at_first(tmp_path: Path) -> None:
    moved = []
    for nesterov in (False, True):
        learner = make_learner(tmp_path, nesterov=nesterov, momentum=0.9, weight_decay=0.0)
        before = learner.model.network.fc.weight.detach().clone()
        real, noise = batches(0, 8)
        learner.step(0, iter(real), iter(noise))
        moved.append(learner.model.network.fc.weight.detach() - before)
    torch.testing.assert_close(moved[1], 1.9 * moved[0], rtol=1e-3, atol=1e-7)
