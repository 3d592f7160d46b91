"""Runs: they learn, they are deterministic, and neither a kill nor the number of processes changes where they arrive."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from children import together
from processes import wait_until
from torch import nn
from train_cases import configuration, problem, real_images, run, run_on_processes, start_run

from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.system.locks import only_writer
from jboost.trainer.architectures import build_network
from jboost.trainer.checkpoint import read_safetensors
from jboost.trainer.config import CHANGEABLE
from jboost.trainer.learner import Learner
from jboost.trainer.machine import make_accelerator
from jboost.trainer.run import BEST, LAST
from jboost.trainer.start import initial_model
from jboost.trainer.state import FILE, State, load_state, save_state
from jboost.trainer.watch import Hooks


def weights(out: Path, name: str = LAST) -> dict[str, torch.Tensor]:
    return read_safetensors(out / name)[0]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lines(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


# --- learning ------------------------------------------------------------------------------------------------------------------


def test_a_run_learns_and_keeps_what_it_learned(tmp_path: Path) -> None:
    finished = run(
        configuration(arch="small_resnet4", iterations=40, batch_size=16, learning_rate=0.1, validate_every=10),
        tmp_path,
    )
    log = lines(tmp_path)
    trained = [line for line in log if line["kind"] == "train"]
    seen = [line for line in log if line["kind"] == "validation"]
    assert [line["iteration"] for line in trained] == list(range(1, 41))
    assert [line["iteration"] for line in seen] == [10, 20, 30, 40]
    assert trained[-1]["loss"] < 0.5 * trained[0]["loss"]
    assert seen[-1]["robust_accuracy"] == 1.0
    assert seen[-1]["realness_real"] > seen[-1]["realness_generated"] + 0.5
    assert seen[-1]["realness_boosted"] > seen[-1]["realness_generated"]
    assert finished is not None
    assert finished.l0 == seen[-1]["realness_real"]
    _, info = read_safetensors(finished.last)
    assert info is not None
    assert (info.l0, info.num_classes, info.resolution, info.arch) == (finished.l0, 4, 8, "small_resnet4")
    best = min(seen, key=lambda line: line["loss"])
    assert read_safetensors(tmp_path / BEST)[1].l0 == best["realness_real"]


def test_the_seed_decides(tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run(configuration(seed=seed, iterations=3), tmp_path / name)
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))
    assert [line["loss"] for line in lines(tmp_path / "a")] == [line["loss"] for line in lines(tmp_path / "b")]


def test_the_best_is_chosen_by_the_distance_where_there_is_one(tmp_path: Path) -> None:
    distances = iter([9.0, 3.0, 9.0, 5.0])  # before and after boosting, twice
    run(configuration(), tmp_path, hooks=Hooks(frechet=lambda real, images: next(distances)))
    seen = [line for line in lines(tmp_path) if line["kind"] == "validation"]
    assert [line["frechet_boosted"] for line in seen] == [3.0, 5.0]
    assert read_safetensors(tmp_path / BEST)[1].l0 == seen[0]["realness_real"]
    assert read_safetensors(tmp_path / LAST)[1].l0 == seen[1]["realness_real"]


def test_a_run_without_held_out_images_measures_l0_on_its_own(tmp_path: Path) -> None:
    finished = run(configuration(), tmp_path, data=problem(held_out=0))
    assert finished is not None
    assert finished.best == finished.last == tmp_path / LAST
    assert finished.l0 > 0
    assert {line["kind"] for line in lines(tmp_path)} == {"train"}


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(FailureError, match=r"iteration \d+; start again .* lower --learning-rate"):
        run(configuration(learning_rate=1e25, iterations=20), tmp_path)
    state = load_state(tmp_path)
    assert state is None or all(tensor.isfinite().all() for tensor in state.tensors.values())


# --- one optimizer step ----------------------------------------------------------------------------------------------------------


def make_learner(tmp_path: Path, **values: object) -> Learner:
    config = configuration(**values)
    model, _ = initial_model(arch=config.arch, num_classes=4, in_channels=1, normalize="0.5/0.5", seed=0)
    return Learner(model, config, make_accelerator(config, tmp_path))


def batches(size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images, labels = real_images()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return [(x[i : i + size], torch.from_numpy(labels[i : i + size])) for i in range(0, 40 - size + 1, size)]


def test_accumulated_batches_take_the_step_of_the_whole(tmp_path: Path) -> None:
    after = []
    for parts in (1, 2):
        learner = make_learner(tmp_path, accumulate=parts, batch_norm="frozen")
        learner.step(0, iter(batches(8 // parts)), iter(batches(8 // parts)))
        after.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
    start = torch.cat([p.flatten() for p in make_learner(tmp_path).model.parameters()])
    assert (after[0] - start).norm() > 1e-2
    assert (after[1] - after[0]).norm() < 1e-4 * (after[0] - start).norm()


def test_the_gradient_is_clipped(tmp_path: Path) -> None:
    learner = make_learner(tmp_path, clip=1e-3, momentum=0.0, weight_decay=0.0, learning_rate=1.0)
    start = torch.cat([p.detach().flatten().clone() for p in learner.model.parameters()])
    seen = learner.step(0, iter(batches(8)), iter(batches(8)))
    moved = (torch.cat([p.detach().flatten() for p in learner.model.parameters()]) - start).norm()
    assert float(seen["gradient_norm"]) > 1e-2
    assert float(moved) == pytest.approx(1e-3, rel=1e-2)


def test_frozen_statistics_stay(tmp_path: Path) -> None:
    for mode, moves in (("frozen", False), ("train", True)):
        learner = make_learner(tmp_path, batch_norm=mode)
        learner.step(0, iter(batches(8)), iter(batches(8)))
        norm = learner.model.network.bn1
        assert isinstance(norm, nn.BatchNorm2d)
        assert bool((norm.running_mean != 0).any()) is moves


def test_the_average_is_the_recursion(tmp_path: Path) -> None:
    learner = make_learner(tmp_path, ema=0.8)
    history = []
    for i in range(3):
        learner.step(i, iter(batches(8)), iter(batches(8)))
        history.append(learner.model.network.conv1.weight.detach().clone())
    expected = history[0]
    for weight in history[1:]:
        expected = 0.8 * expected + 0.2 * weight
    torch.testing.assert_close(learner.kept.network.conv1.weight, expected)


# --- starting from a backbone ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "reset", "kept"), [(4, False, True), (4, True, False), (7, False, False)])
def test_a_backbone_is_taken_over_and_the_head_where_it_fits(classes: int, reset: bool, kept: bool) -> None:
    loaded = initial_model(arch="small_resnet2", num_classes=4, in_channels=1, normalize="0.3/0.2", seed=1)
    model, info = initial_model(
        arch=None, num_classes=classes, in_channels=1, normalize=None, seed=2, loaded=loaded, reset_head=reset
    )
    assert torch.equal(model.network.layer3[0].conv2.weight, loaded[0].network.layer3[0].conv2.weight)
    assert torch.equal(model.network.bn1.running_var, loaded[0].network.bn1.running_var)
    assert (info.arch, info.num_classes, info.mean, info.std) == ("small_resnet2", classes, (0.3,), (0.2,))
    ours, theirs = model.network.fc.weight, loaded[0].network.fc.weight
    assert (ours.shape == theirs.shape and torch.equal(ours, theirs)) is kept
    torch.manual_seed(2)
    if not kept:
        assert torch.equal(ours, build_network("small_resnet2", classes, 1).fc.weight)


def test_a_backbone_of_other_channels_or_another_architecture_is_refused() -> None:
    loaded = initial_model(arch="small_resnet2", num_classes=4, in_channels=1, normalize=None, seed=1)
    with pytest.raises(BadInputError, match="takes 1 channels, the images have 3"):
        initial_model(arch=None, num_classes=4, in_channels=3, normalize=None, seed=2, loaded=loaded)
    with pytest.raises(BadInputError, match="does not fit the architecture"):
        initial_model(arch="small_resnet3", num_classes=4, in_channels=1, normalize=None, seed=2, loaded=loaded)


# --- going on --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "ema", "seed"), [("adamw", 0.5, 1), ("sgd", 0.0, 2)])
def test_a_run_that_is_killed_at_any_moment_arrives_where_an_uninterrupted_one_does(
    tmp_path: Path, optimizer: str, ema: float, seed: int
) -> None:
    """To the bit: the checkpoints, the whole state, and the log."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    config = configuration(optimizer=optimizer, ema=ema, iterations=20, grow_every=10, flip=True, crop_padding=1)
    together(start_run(config, straight))

    def done() -> int:
        state = load_state(killed)
        return state.iteration if state else 0

    chance, reached = random.Random(seed), set()
    for attempt in range(8):
        child, before = start_run(config, killed, resume=True), done()
        # Every other one is let past a commit, so that there is something to go on from; the others die wherever they are.
        if attempt % 2 == 0:
            wait_until(lambda before=before: done() != before or before == 20, 60)
        time.sleep(chance.uniform(0, 0.2))
        child.kill()
        assert child.wait() in (0, -signal.SIGKILL), child.said
        reached.add(done())
    together(start_run(config, killed, resume=True))
    assert len(reached - {0, 20}) >= 2, reached
    for name in (LAST, BEST, FILE):
        assert (straight / name).read_bytes() == (killed / name).read_bytes(), name
    assert lines(straight) == lines(killed)
    assert sorted(p.name for p in straight.iterdir()) == sorted(p.name for p in killed.iterdir())


def test_a_run_is_not_mixed_with_another(tmp_path: Path) -> None:
    run(configuration(), tmp_path)
    with pytest.raises(BadInputError, match=r"holds a run; continue it with --resume"):
        run(configuration(), tmp_path)
    with pytest.raises(BadInputError, match=r"--learning-rate was 0.05, is 0.5"):
        run(configuration(learning_rate=0.5), tmp_path, resume=True)
    other = problem()
    other.real.labels[0] = 3
    with pytest.raises(BadInputError, match="the images differ from those of the run"):
        run(configuration(), tmp_path, resume=True, data=other)
    assert "log_every" in CHANGEABLE
    finished = run(configuration(log_every=2), tmp_path, resume=True)
    assert finished is not None
    assert finished.iterations == 6


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    assert load_state(tmp_path) is None
    save_state(tmp_path, State(3, {"a": torch.arange(5.0)}, {"best": None}))
    state = load_state(tmp_path)
    assert state is not None
    assert (state.iteration, state.facts, state.tensors["a"].tolist()) == (3, {"best": None}, [0, 1, 2, 3, 4])
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(BadInputError, match="is not a training state"):
        load_state(tmp_path)


# --- many processes --------------------------------------------------------------------------------------------------------------


def test_two_processes_take_the_step_of_one(tmp_path: Path) -> None:
    """The same global batch, and batch norm in training mode: weights, running statistics and the report."""
    one, two = tmp_path / "one", tmp_path / "two"
    config = configuration(arch="small_resnet4", iterations=1, flip=True, generated_steps=4)
    together(start_run(config, one))
    run_on_processes(config, two, 2)
    a, b = weights(one), weights(two)
    start, _ = initial_model(arch="small_resnet4", num_classes=4, in_channels=1, normalize="0.5/0.5", seed=0)
    for name, before in start.network.state_dict().items():
        first, second = a[f"network.{name}"].double(), b[f"network.{name}"].double()
        moved = (first - before.double()).norm()
        assert moved > 0, name
        assert (second - first).norm() <= 1e-3 * moved + 1e-7, name
    ours, theirs = ({k: v for k, v in lines(out)[0].items() if k != "kind"} for out in (one, two))
    assert theirs == pytest.approx(ours, rel=1e-4)


def test_the_batch_must_be_shared_evenly(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be split into --accumulate 3"):
        configuration(accumulate=3)


def test_a_second_run_in_the_folder_is_told_to_wait(tmp_path: Path) -> None:
    """... not to resume, or to remove what the first one writes."""
    run(configuration(iterations=1), tmp_path / "run")
    with only_writer(tmp_path / "run"):
        for resume in (False, True):
            with pytest.raises(
                BadInputError, match=r"run is being written by process \d+ since .*; wait for it, or name another -o$"
            ):
                run(configuration(iterations=1), tmp_path / "run", resume=resume)
    run(configuration(iterations=1), tmp_path / "deep" / "er" / "run")
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["run"]
