"""``jboost train --preset released-rn50`` as a user runs it, scaled down by flags, to a checkpoint, a bundle and a boost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from jboost.trainer.architectures import build_network
from jboost.trainer.checkpoint import ModelInfo, read_safetensors, save_checkpoint
from jboost.trainer.joint import JointModel

if TYPE_CHECKING:  # there is a conftest in another folder too
    from conftest import Run

CLASSES, OWN = 4, 8
SMALL = (
    "--preset", "released-rn50", "--arch", "small_resnet2", "--resolution", 12, "--iterations", 3, "--milestones", 2,
    "--keep-at", 2, "--batch-size", 4, "--generated-steps", 2, "--held-out", 8, "--validate-every", 3, "--save-every", 1,
    "--boost-steps", 1, "--log-with", "none", "--device", "cpu", "--real", "real", "--generated", "generated.npz",
    "-o", "run",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """real/<class>/*.png of all sizes, generated.npz of 8x8, and a backbone of four classes."""
    folder, rng = tmp_path_factory.mktemp("released"), np.random.default_rng(0)
    for i in range(24):
        name = folder / "real" / "abcd"[i % CLASSES] / f"{i}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(12, 40, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(name)
    np.savez(folder / "generated.npz", rng.integers(0, 256, (24, OWN, OWN, 3), np.uint8), np.arange(24) % CLASSES)
    torch.manual_seed(9)
    robust = JointModel(build_network("small_resnet2", CLASSES, 3), (0.5,) * 3, (0.5,) * 3)
    save_checkpoint(
        folder / "robust.safetensors", robust, ModelInfo("small_resnet2", CLASSES, 3, (0.5,) * 3, (0.5,) * 3)
    )
    return folder


@pytest.mark.slow
def test_a_released_preset_trains_exports_and_boosts_at_the_generators_size(folder: Path, jboost: Run) -> None:
    done = jboost("train", *SMALL, "--init", "robust.safetensors", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "training crops the images at random, each resized to 256 by its shorter side, to 12x12" in done.stderr
    assert "the checkpoints are for 8x8, and l0 is the mean over real images of 12x12" in done.stderr
    assert "iteration 2: kept as run/000002.safetensors" in done.stderr
    assert "released sampler" not in done.stderr  # iteration 1,000 is not kept here
    config = json.loads((folder / "run" / "config.json").read_text())
    assert (config["optimizer"], config["real_start"], config["reset_head"]) == ("adam", 1.0, True)
    weights, info = read_safetensors(folder / "run" / "000002.safetensors")
    assert info is not None
    assert (info.resolution, info.class_names) == (OWN, ("a", "b", "c", "d"))
    # The head is new, the rest starts from the backbone: three steps of 1e-5 move it by less than 1e-4.
    backbone = read_safetensors(folder / "robust.safetensors")[0]
    assert (weights["network.conv1.weight"] - backbone["network.conv1.weight"]).abs().max() < 1e-4
    assert (weights["network.fc.weight"] - backbone["network.fc.weight"]).abs().max() > 1e-2

    again = jboost("train", "-o", "run", "--resume", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "resuming after 3 of 3 iterations" in again.stderr

    exported = jboost(
        "export", "--ckpt", "run/000002.safetensors", "-o", "bundle", "--format", "none", cwd=folder
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr
    boosted = jboost(
        "boost", "generated.npz", "--bundle", "bundle", "--engine", "eager", "--device", "cpu", "--steps", 2,
        "--json", "-", cwd=folder,
    )  # fmt: skip
    assert boosted.returncode == 0, boosted.stderr
    assert json.loads(boosted.stdout)["images"] == 24
    with np.load(folder / "generated.boosted.npz") as file:
        assert file["arr_0"].shape == (24, OWN, OWN, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--keep-at", 1000), "--keep-at 1000 comes after the last of 3 iterations; give --keep-at 3"),
        (("--optimizer", "adam", "--momentum", 0.8), "jboost: --momentum has no effect with --optimizer adam; give"),
        (("--generated-size", "same"), "or allow both sizes with --generated-size own"),
    ],
)
def test_what_cannot_be_is_one_line(folder: Path, jboost: Run, arguments: tuple[object, ...], message: str) -> None:
    done = jboost("train", *SMALL[:-1], "other", *arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.strip().splitlines()[-1]
    assert not (folder / "other").exists()


def test_a_paper_preset_starts_with_a_new_head_unless_told_otherwise(folder: Path, jboost: Run) -> None:
    """`--no-reset-head` undoes it: tests/trainer/test_presets.py."""
    done = jboost(
        "train", *SMALL[2:-1], "paper", "--preset", "paper-rn50", "--resolution", OWN, "--iterations", 2, "--warmup", 0,
        "--held-out", 0, "--learning-rate", 1e-6, "--dtype", "fp32", "--schedule", "step", "--keep-at", "none",
        "--init", "robust.safetensors", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "starts from random weights" not in done.stderr
    assert not (folder / "paper" / "000002.safetensors").exists()
    before = read_safetensors(folder / "robust.safetensors")[0]
    after = read_safetensors(folder / "paper" / "last.safetensors")[0]
    assert (after["network.fc.weight"] - before["network.fc.weight"]).abs().max() > 1e-2
    assert (after["network.conv1.weight"] - before["network.conv1.weight"]).abs().max() < 1e-4
