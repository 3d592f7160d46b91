"""Memory is bounded by the features, never by the images or by their pairs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from jboost.evaluation.extractors.base import Identity
from jboost.evaluation.sets import Features, save_features

_SCRIPT = """
import sys, torch
from jboost.engine.system.memory import peak_memory
from jboost.evaluation import evaluate

torch.set_num_threads(1)
reference, samples, small, extractor, metrics = sys.argv[1:]
options = {"features": extractor or None, "device": "cpu", "resamples": 20, "metrics": metrics.split(",")}
evaluate(small, [small], **options)  # libraries are loaded, and buffers of the blocks' size taken
before = peak_memory()
evaluate(reference, [samples], **options)
print((peak_memory() - before) >> 20)
"""


def growth(folder: Path, *arguments: str) -> int:
    """By how many MiB the process's peak rose over a small evaluation's."""
    command = [sys.executable, "-c", _SCRIPT, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def write_features(path: Path, n: int, dimensions: int) -> None:
    rows = torch.randn(n, dimensions, generator=torch.Generator().manual_seed(n))
    save_features(path, Features(n, (8, 8, 3), Identity("x", "factory", "x:y", "0"), rows))


def test_distances_between_all_pairs_are_never_in_memory(tmp_path) -> None:
    for name, n in (("ref", 8000), ("samples", 7000), ("small", 4200)):
        write_features(tmp_path / f"{name}.npz", n, 64)
    # The features take 4 MiB, one matrix of all distances would take 213. Between them lies what the allocator does with blocks of
    # 16 MiB that are taken and freed: on one machine it kept one more, on another five.
    assert growth(tmp_path, "ref.npz", "samples.npz", "small.npz", "", "fid,precision") < 120


def test_images_are_never_all_in_memory(tmp_path) -> None:
    (tmp_path / "own_mean.py").write_text("def make():\n    return lambda x: x.mean((2, 3))\n")
    np.savez(tmp_path / "large.npz", np.zeros((4000, 96, 96, 3), np.uint8))  # 105 MiB
    np.savez(tmp_path / "small.npz", np.zeros((100, 96, 96, 3), np.uint8))
    assert growth(tmp_path, "small.npz", "large.npz", "small.npz", "own_mean:make", "fid") < 40
