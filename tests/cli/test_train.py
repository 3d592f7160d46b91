"""``jboost train`` as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from processes import wait_until
from train_cases import generated_images, real_images

from jboost.engine.system.locks import only_writer
from jboost.trainer.checkpoint import read_safetensors

if TYPE_CHECKING:  # there is a conftest in another folder too
    from conftest import Run

SMALL = """
arch = "small_resnet2"
iterations = 4
batch_size = 8
held_out = 8
real_steps = 1
generated_steps = 1
boost_steps = 1
validate_every = 2
save_every = 2
log_every = 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """real/<class>/*.png, generated.npz, small.toml."""
    for i, (image, label) in enumerate(zip(*real_images(), strict=True)):
        (tmp_path / "real" / "abcd"[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(tmp_path / "real" / "abcd"[label] / f"{i}.png")
    np.savez(tmp_path / "generated.npz", *generated_images())
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


DATA = ("--real", "real", "--generated", "generated.npz", "-o", "run", "--config", "small.toml")


def test_a_model_is_trained_gone_on_with_exported_and_trained_further(folder: Path, jboost: Run) -> None:
    done = jboost(
        "train", *DATA, "--iterations", 6, "--generated", "generated.npz", "--generated-weights", "2,1", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "4 classes, labels from arr_1" in done.stderr
    assert "jboost export --ckpt run/last.safetensors" in done.stdout
    run = folder / "run"
    assert {p.name for p in run.iterdir()} == {
        "config.json", "log.jsonl", "state.safetensors", "last.safetensors", "best.safetensors", "grids", "tensorboard",
    }  # fmt: skip
    assert sorted(p.name for p in (run / "grids").iterdir()) == ["000002.png", "000004.png", "000006.png"]
    config = json.loads((run / "config.json").read_text())
    assert (config["iterations"], config["batch_size"], config["generated_weights"]) == (6, 8, [2.0, 1.0])
    assert list((run / "tensorboard").glob("events.*"))
    _, info = read_safetensors(run / "last.safetensors")
    assert info is not None
    assert (info.class_names, info.resolution, info.arch) == (("a", "b", "c", "d"), 8, "small_resnet2")

    weights = (run / "last.safetensors").read_bytes()
    again = jboost("train", "-o", "run", "--resume", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "resuming after 6 of 6 iterations" in again.stderr
    assert (run / "last.safetensors").read_bytes() == weights

    exported = jboost("export", "--ckpt", "run/last.safetensors", "--format", "none", cwd=folder)
    assert exported.returncode == 0, exported.stderr
    assert f"{info.l0:.4f}" in exported.stdout

    further = jboost(
        "train", *DATA[:4], "-o", "further", "--config", "small.toml", "--init", "run/last.safetensors", "--iterations", 1,
        "--log-with", "none", "--features", "bundle:bundle", cwd=folder,
    )  # fmt: skip
    assert further.returncode == 0, further.stderr
    assert "architecture: small_resnet2, 4 classes" in further.stderr
    seen = json.loads((folder / "further" / "log.jsonl").read_text().splitlines()[-1])
    assert seen["frechet_generated"] > 0
    assert seen["frechet_boosted"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--learning-rate", "-1"), "--learning-rate must be greater than 0, got -1.0"),
        (("--generated-weights", "a"), "--generated-weights takes numbers"),
        (("--dtype", "fp16", "--device", "cpu"), "fp16 trains on a GPU only"),
        (("--init", "nowhere.pt"), "no checkpoint file nowhere.pt"),
        (("--num-classes", "3"), "out of range"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    folder: Path, jboost: Run, arguments: tuple[str, ...], message: str
) -> None:
    done = jboost("train", *DATA, *arguments, cwd=folder)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("jboost: ")
    assert message in last
    assert not (folder / "run").exists()


def test_a_broken_image_is_named_before_training(folder: Path, jboost: Run) -> None:
    broken = folder / "real" / "b" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    done = jboost("train", *DATA, cwd=folder)
    assert done.returncode == 2
    assert "real/b/1.png" in done.stderr
    assert not (folder / "run").exists()


def test_a_second_run_and_an_interrupted_one_are_told_what_to_do(folder: Path, jboost: Run) -> None:
    assert jboost("train", *DATA, cwd=folder).returncode == 0
    with only_writer(folder / "run"):
        for more in ([], ["--resume"]):
            done = jboost("train", *DATA, *more, cwd=folder)
            assert done.returncode == 2
            assert done.stderr.startswith(f"jboost: run is being written by process {os.getpid()} since ")
            assert "rm -r" not in done.stderr
    command = [str(Path(sys.executable).with_name("jboost")), "train", *DATA, "--iterations", "100000"]
    command[command.index("run")] = "other"
    running = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: (folder / "other" / "state.safetensors").exists() or running.poll() is not None, 120)
    running.terminate()
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 143
    assert errors.splitlines()[-1].startswith("jboost: interrupted; go on with: jboost train --resume --real real ")
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
