"""Runs with what the released presets need: two sizes, random starts, random crops, Adam, kept checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from children import together
from train_cases import configuration, run, run_on_processes, start_run, two_sizes

from jboost.engine.errors import BadInputError
from jboost.trainer.checkpoint import ModelInfo, read_safetensors
from jboost.trainer.config import TrainConfig, resolve_config
from jboost.trainer.joint import JointModel
from jboost.trainer.learner import Learner
from jboost.trainer.machine import make_accelerator
from jboost.trainer.run import BEST, LAST
from jboost.trainer.start import check_sizes, initial_model
from jboost.trainer.state import FILE
from jboost.trainer.watch import Hooks

OPTIONS = {
    "optimizer": "adam",
    "weight_decay": 0.0,
    "learning_rate": 1e-2,
    "schedule": "step",
    "milestones": (4,),
    "clip": 1.0,
    "real_start": 0.2,
    "real_resize": 10,
    "real_crop": True,
    "real_flip": True,
    "real_rotation": 10.0,
    "real_vertical_flip": True,
    "generated_size": "own",
    "keep_at": (1, 4),
}


def released(**values: object) -> TrainConfig:
    return configuration(**{**OPTIONS, **values})


def weights(out: Path, name: str = LAST) -> dict[str, torch.Tensor]:
    return read_safetensors(out / name)[0]


def test_checkpoints_are_kept_and_a_stopped_run_arrives_at_the_same_bits(tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    said: list[str] = []
    run(released(), straight, data=two_sizes(), hooks=Hooks(say=said.append))
    kept = ["000001.safetensors", "000004.safetensors"]
    assert sorted(path.name for path in straight.glob("0*")) == kept
    assert f"iteration 4: kept as {straight / kept[1]}" in said
    assert weights(straight, kept[1]).keys() == weights(straight).keys()

    def stop(iteration: int, figures: object) -> None:
        if iteration == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(released(), stopped, data=two_sizes(), hooks=Hooks(on_log=stop))
    run(released(), stopped, data=two_sizes(), resume=True)
    for name in (FILE, LAST, BEST, *kept):
        assert (straight / name).read_bytes() == (stopped / name).read_bytes(), name


def test_a_passed_iteration_is_not_kept_afterwards(tmp_path: Path) -> None:
    run(released(iterations=3, keep_at=(1,)), tmp_path, data=two_sizes())
    before = (tmp_path / "config.json").read_bytes()
    for passed in (2, 3):
        with pytest.raises(BadInputError, match=f"^--keep-at {passed}: .* is at iteration 3 of 3 and did not keep"):
            run(released(iterations=3, keep_at=(1, passed)), tmp_path, data=two_sizes(), resume=True)
    assert (tmp_path / "config.json").read_bytes() == before  # so that the plain --resume still goes on
    run(released(iterations=3, keep_at=(1,)), tmp_path, data=two_sizes(), resume=True)
    # An iteration whose file is there may be named again.
    run(released(iterations=3, keep_at=()), tmp_path, data=two_sizes(), resume=True)
    run(released(iterations=3, keep_at=(1,)), tmp_path, data=two_sizes(), resume=True)


def test_every_option_counts(tmp_path: Path) -> None:
    """Each of them changes the weights, so none is read and left aside."""
    run(released(iterations=2, keep_at=(), milestones=(1,)), tmp_path / "all", data=two_sizes())
    whole = weights(tmp_path / "all")["network.conv1.weight"]
    off = {
        "real_start": 0.0,
        "real_resize": 0,
        "real_crop": False,
        "real_flip": False,
        "real_rotation": 0.0,
        "real_vertical_flip": False,
        "optimizer": "adamw",
        "weight_decay": 0.1,
    }
    for name, value in off.items():
        without = {"real_resize": 0} if name == "real_crop" else {}  # which belongs to it
        config = released(iterations=2, keep_at=(), milestones=(1,), **{name: value}, **without)
        if name == "optimizer":  # with the same decay, the two treat it differently
            config = config.model_copy(update={"weight_decay": 0.1})
            run(config, tmp_path / name, data=two_sizes())
            run(config.model_copy(update={"optimizer": "adam"}), tmp_path / "decayed", data=two_sizes())
            assert not torch.equal(
                weights(tmp_path / "decayed")["network.conv1.weight"], weights(tmp_path / name)["network.conv1.weight"]
            )
            continue
        run(config, tmp_path / name, data=two_sizes())
        changed = weights(tmp_path / name)["network.conv1.weight"]
        assert not torch.equal(changed, whole), name
        if name == "real_crop":
            assert not torch.equal(changed, weights(tmp_path / "real_resize")["network.conv1.weight"])


def test_the_distance_is_taken_at_the_generators_size(tmp_path: Path) -> None:
    shapes = []

    def frechet(real: np.ndarray, images: np.ndarray) -> float:
        shapes.append((real.shape, images.shape))
        return 1.0

    run(released(iterations=1, keep_at=(), milestones=(1,)), tmp_path, data=two_sizes(), hooks=Hooks(frechet=frechet))
    assert shapes == [((8, 4, 4, 1), (8, 4, 4, 1))] * 2


def test_adam_is_torchs(tmp_path: Path) -> None:
    """One step of a decay that Adam adds to the gradient moves each weight by the learning rate, in the gradient's sign."""
    config = released(weight_decay=1e6, clip=0.0, learning_rate=1e-3, generated_size="same", batch_norm="frozen")
    model, _ = initial_model(arch=config.arch, num_classes=4, in_channels=1, normalize="0.5/0.5", seed=0)
    before = model.network.conv1.weight.detach().clone()
    learner = Learner(model, config, make_accelerator(config, tmp_path))
    images = torch.rand(8, 1, 8, 8), torch.arange(8) % 4
    learner.step(0, iter([images]), iter([images]))
    torch.testing.assert_close(model.network.conv1.weight.detach(), before - 1e-3 * before.sign(), atol=1e-5, rtol=0)


def test_two_processes_take_the_step_of_one_with_two_sizes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    config = configuration(
        arch="small_resnet4", iterations=1, generated_steps=4, real_start=0.2, real_resize=10, real_crop=True, real_flip=True,
        real_rotation=10.0, real_vertical_flip=True, generated_size="own",
    )  # fmt: skip
    together(start_run(config, one, two_sizes))
    run_on_processes(config, two, 2, two_sizes)
    a, b = weights(one), weights(two)
    start, _ = initial_model(arch="small_resnet4", num_classes=4, in_channels=1, normalize="0.5/0.5", seed=0)
    for name, before in start.network.state_dict().items():
        first, second = a[f"network.{name}"].double(), b[f"network.{name}"].double()
        moved = (first - before.double()).norm()
        assert moved > 0, name
        assert (second - first).norm() <= 1e-3 * moved + 1e-7, name


@pytest.mark.slow
def test_compiled_attacks_of_two_sizes_are_the_eager_ones(tmp_path: Path) -> None:
    after = []
    for compiled in (False, True):
        config = released(compile=compiled, iterations=2, keep_at=(), milestones=(1,))
        run(config, tmp_path / str(compiled), data=two_sizes())
        after.append(weights(tmp_path / str(compiled)))
    for name, tensor in after[0].items():
        torch.testing.assert_close(after[1][name], tensor, rtol=1e-3, atol=1e-3)


def test_a_network_for_one_size_is_refused_before_training() -> None:
    model = JointModel(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)), (0.0,), (1.0,)).train()
    info = ModelInfo("mine:net", 4, 1, (0.0,), (1.0,))
    check_sizes(model, info, (4, 4))
    assert model.training
    with pytest.raises(BadInputError, match=r"mine:net does not take images of 8x8 .*; give images of one size"):
        check_sizes(model, info, (8, 4))
    with pytest.raises(BadInputError, match=r"8x8 .*; give another --arch, such as resnet50"):
        check_sizes(model, info, (8, 8))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"real_start": 2.0}, "leaves the ball of --real-eps 1; lower --real-start or raise --real-eps"),
        ({"real_rotation": 200.0}, "--real-rotation must be less than or equal to 180, got 200.0"),
        ({"real_resize": 256}, "--real-resize 256 is for random crops; give --real-crop too, or --real-resize 0"),
        ({"generated_size": "half"}, "--generated-size must be 'same' or 'own', got 'half'"),
        ({"keep_at": (7, 20_000)}, "--keep-at 20000 comes after the last of 10000 iterations; give --keep-at 10000"),
        ({"keep_at": (0,)}, "--keep-at must be greater than or equal to 1, got 0"),
        ({"optimizer": "lion"}, "--optimizer must be 'adamw', 'adam' or 'sgd', got 'lion'"),
    ],
)
def test_a_value_that_cannot_be_is_one_line(flags: dict[str, object], message: str) -> None:
    with pytest.raises(BadInputError) as caught:
        resolve_config({"real": "r", "generated": ["g"], **flags})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
