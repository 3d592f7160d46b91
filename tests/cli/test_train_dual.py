"""``jboost train`` with the presets of dual adversarial training, on images without labels, as a user runs it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from children import started
from PIL import Image
from processes import wait_until

if TYPE_CHECKING:  # there is a conftest in another folder too
    from conftest import Run

SMALL = """
preset = "dat-cifar10"
real = "real.npz"
generated = ["ood.npz", "photos"]
generated_weights = [2, 1]
arch = "small_resnet4"
batch_norm = "train"
normalize = "cifar10"
resolution = 8
iterations = 10
batch_size = 16
grow_images = 32
generated_max_steps = 3
learning_rate = 0.05
crop_padding = 1
held_out = 8
boost_steps = 2
validate_every = 5
save_every = 1
log_every = 1
log_with = "none"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """real.npz with labels; ood.npz without; photos/ of other sizes, in folders that are no classes; small.toml."""
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 4
    real = rng.integers(0, 60, (80, 8, 8, 3), np.uint8)
    for image, c in zip(real, labels, strict=True):
        image[4 * (c // 2) :, 4 * (c % 2) :][:4, :4] += 190
    np.savez(tmp_path / "real.npz", real, labels)
    np.savez(tmp_path / "ood.npz", rng.integers(0, 256, (60, 8, 8, 3), np.uint8))
    for i in range(20):
        path = tmp_path / "photos" / ("some" if i % 3 else "others") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9 + i, 12, 3), np.uint8)).save(path)
    (tmp_path / "small.toml").write_text(SMALL)
    return tmp_path


def test_a_run_on_images_of_no_class_grows_and_resumes_to_the_bit(folder: Path, jboost: Run) -> None:
    whole = jboost("train", "--config", "small.toml", "-o", "whole", cwd=folder)
    assert whole.returncode == 0, whole.stderr
    assert "ood.npz: labels of the paired real images" in whole.stderr
    assert "photos: labels of the paired real images" in whole.stderr
    assert "20 images: resized" in whole.stderr
    assert whole.stdout.splitlines()[-1].endswith("jboost export --ckpt whole/last.safetensors --objective logit")
    log = [json.loads(line) for line in (folder / "whole" / "log.jsonl").read_text().splitlines()]
    steps = [line["attack_steps"] for line in log if line["kind"] == "train"]
    aucs = [line["auc"] for line in log if line["kind"] == "train"]
    # The rule again, from the logged areas: two batches hold the 32 images of the average.
    expected, since = [0], 0
    for i in range(1, 10):
        grows = i - since >= 2 and np.mean(aucs[i - 2 : i]) >= 0.7 and expected[-1] < 3
        since = i if grows else since
        expected.append(expected[-1] + grows)
    assert steps == expected
    assert steps[-1] >= 1

    running = started("train", "--config", "small.toml", "-o", "cut", cwd=folder)
    written = folder / "cut" / "log.jsonl"
    wait_until(lambda: written.exists() and len(written.read_text().splitlines()) >= 4, 120)
    running.kill()
    assert running.wait() == -signal.SIGKILL, running.said
    resumed = jboost("train", "-o", "cut", "--resume", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("last.safetensors", "best.safetensors", "state.safetensors", "log.jsonl"):
        assert (folder / "cut" / name).read_bytes() == (folder / "whole" / name).read_bytes(), name


def test_images_without_labels_need_the_option(folder: Path, jboost: Run) -> None:
    done = jboost(
        "train",
        "--config",
        "small.toml",
        "-o",
        "run",
        "--generated-labels",
        "own",
        "--batch-norm",
        "frozen",
        cwd=folder,
    )
    assert done.returncode == 2, done.stderr
    assert "BatchNorm keeps mean 0 and variance 1" in " ".join(done.stderr.split())
    assert done.stderr.strip().splitlines()[-1].startswith("jboost: ood.npz has no labels (arr_1)")
    assert not (folder / "run").exists()
