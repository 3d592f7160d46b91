"""Features that hardly vary or that are probabilities are recognised, and the remedies give the right distance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jboost.engine.errors import BadInputError
from jboost.evaluation import evaluate

FACTORY = """
import torch

def byte():  # made for 0 to 255, as many networks of TensorFlow are
    return lambda x: torch.nn.functional.adaptive_avg_pool2d((x - 120) / 60, 2).flatten(1)

def unit():  # the same, made for 0 to 1
    return lambda x: torch.nn.functional.adaptive_avg_pool2d((255 * x - 120) / 60, 2).flatten(1)

def softmax():
    return lambda x: x.mean((2, 3)).softmax(1)

def constant():
    return lambda x: torch.ones(len(x), 3) + 1e-7 * x.mean((2, 3))
"""
HOW = {"metrics": ("fid",), "device": "cpu", "resamples": 0}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    (tmp_path / "byte_features.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, white in (("real", 256), ("made", 160)):
        np.savez(tmp_path / f"{name}.npz", rng.integers(0, white, (40, 8, 8, 3), dtype=np.uint8))
    return tmp_path


def distance(spec: str, **options) -> float:
    value = evaluate("real.npz", ["made.npz"], features=spec, **HOW, **options).samples[0].metrics["fid"].value
    assert value is not None
    return value


def test_an_extractor_for_0_to_255_is_recognised_and_the_remedy_is_right(here) -> None:
    with pytest.raises(BadInputError, match=r"real\.npz hardly vary.*add --features-range 255") as e:
        distance("byte_features:byte")
    assert "\n" not in str(e.value)
    right = distance("byte_features:unit")
    assert distance("byte_features:byte", features_range=255) == pytest.approx(right, rel=1e-4)
    assert right > 1
    assert distance("byte_features:byte", features_range=1) < 1e-2  # whoever insists


def test_probabilities_are_noted_and_constants_refused(here) -> None:
    result = evaluate("real.npz", ["made.npz"], features="byte_features:softmax", **HOW, features_range=1)
    assert sum("are probabilities: each image's add up to 1" in note for note in result.warnings) == 2
    with pytest.raises(BadInputError, match=r"made\.npz and of real\.npz hardly vary .* rounding errors"):
        evaluate("real.npz", ["made.npz"], features="byte_features:constant", **HOW, features_range=1)
    clean = evaluate("real.npz", ["made.npz"], features="byte_features:unit", **HOW)
    assert not any("vary" in note or "probabilities" in note for note in clean.warnings)


def test_saved_features_of_another_range_do_not_mix(here) -> None:
    evaluate("real.npz", ["made.npz"], features="byte_features:byte", save=here / "kept.npz", features_range=255, **HOW)
    with pytest.raises(BadInputError, match=r"inputs in 0 to 255, the others with 0 to 1; .*--features-range 255"):
        evaluate("kept.npz", ["made.npz"], features="byte_features:byte", features_range=1, **HOW)
    again = evaluate("kept.npz", ["made.npz"], features="byte_features:byte", features_range=255, **HOW)  # the remedy
    assert again.samples[0].metrics["fid"].value == pytest.approx(distance("byte_features:unit"), rel=1e-4)


def test_the_command_says_it(here, jboost) -> None:
    how = ("eval", "real.npz", "made.npz", "--features", "byte_features:byte", "--bootstrap", 0, "--metrics", "fid")
    done = jboost(*how, cwd=here)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert jboost(*how, "--features-range", 255, cwd=here).returncode == 0
    assert "must be 1 or 255" in jboost(*how, "--features-range", 2, cwd=here).stderr
