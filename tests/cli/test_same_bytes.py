"""Whatever company and order an image meets, and however often its run is killed: the same bytes."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from children import started
from processes import wait_until

COUNT = 96


@pytest.fixture(scope="module")
def many(tmp_path_factory, images) -> tuple[Path, np.ndarray]:
    """The images in a random order, mixed with each other, and a second order of them."""
    rng = np.random.default_rng(2)
    mixed = images[rng.integers(0, len(images), (2, COUNT))].astype(np.uint16)
    pixels = (mixed.sum(0) // 2).astype(np.uint8)
    labels = rng.integers(0, 5, COUNT)
    folder = tmp_path_factory.mktemp("many")
    order = rng.permutation(COUNT)
    np.savez(folder / "samples.npz", pixels, labels)
    np.savez(folder / "shuffled.npz", pixels[order], labels[order])
    return folder, order


def boosted(path: Path) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays["arr_0"]


def records(path: Path, order: np.ndarray | slice = slice(None)) -> dict[str, bytes]:
    """What a run file says of each image, in an order."""
    with np.load(path) as arrays:
        return {name: array[order].tobytes() for name, array in arrays.items() if array.shape == (COUNT,)}


# No multiples of 4, so some rows stand at the edge of a vector. Other tests compile packages of 3 from the same bundle.
@pytest.mark.parametrize(
    ("engine", "batch", "steps"),
    [("onnx", 7, 60), ("eager", 7, 20), pytest.param("compile", 3, 20, marks=pytest.mark.slow)],
)
def test_killed_resumed_and_shuffled_runs_give_the_same_bytes(
    engine, batch, steps, bundle, many, tmp_path, jboost
) -> None:
    folder, order = many
    options = ("--bundle", bundle, "--engine", engine, "-b", batch, "--steps", steps, "--device", "cpu")

    def run(name: str, out: str, *more: str) -> list[str]:
        return ["boost", str(folder / name), *map(str, options), "-o", out, "--run", f"{out}.run.npz", *more]

    for name, out in (("samples.npz", "whole.npz"), ("shuffled.npz", "shuffled.npz")):
        done = jboost(*run(name, out), cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    running = started(*run("samples.npz", "killed.npz"), cwd=tmp_path)
    kept = tmp_path / "killed.npz.partial" / "records.bin"
    wait_until(lambda: not running.running or (kept.exists() and any(kept.read_bytes())), 120)
    running.kill()
    assert running.wait() == -signal.SIGKILL, "it ended before it could be killed"
    done = jboost(*run("samples.npz", "killed.npz", "--resume"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    whole = tmp_path / "whole.npz"
    assert (boosted(whole) != boosted(folder / "samples.npz")).any((1, 2, 3)).sum() > COUNT / 2
    assert (tmp_path / "killed.npz").read_bytes() == whole.read_bytes()
    assert boosted(tmp_path / "shuffled.npz").tobytes() == boosted(whole)[order].tobytes()
    assert len(records(tmp_path / "whole.npz.run.npz")) > 5
    assert records(tmp_path / "killed.npz.run.npz") == records(tmp_path / "whole.npz.run.npz")
    assert records(tmp_path / "shuffled.npz.run.npz") == records(tmp_path / "whole.npz.run.npz", order)
