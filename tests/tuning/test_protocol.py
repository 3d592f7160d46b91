"""The FIDs of `jboost tune` are those of the `jboost eval` command that it prints, whatever the protocol."""

from __future__ import annotations

import importlib
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tune_cases import RULER, Place

from jboost.cli import main
from jboost.evaluation import evaluate
from jboost.evaluation.extractors.base import Outputs
from jboost.evaluation.extractors.open import open_extractor

GRID = ("--update", "pgd", "--objective", "logit", "--step-size", "1", "--steps", "2", "--grow", 0, "--bootstrap", 0)


class LikeInception:
    """The tiny extractor, which passes for Inception: its features depend on the protocol's resize."""

    def __init__(self, spec: str, device: str, *, tensorflow: bool, **options: Any):
        self._inner, self._tensorflow = open_extractor(spec, device, **options), tensorflow
        self.identity = replace(self._inner.identity, kind="inception")

    def __call__(self, images: np.ndarray) -> Outputs:
        return self._inner(images if self._tensorflow else images // 2)


@pytest.fixture
def place(place, monkeypatch) -> Place:
    monkeypatch.setattr(importlib.import_module("jboost.evaluation.evaluate"), "open_extractor", LikeInception)
    return place


@pytest.mark.parametrize("made_by", ["openai", "pytorch-fid"])
def test_the_printed_command_gives_the_fid(place, capsys, made_by) -> None:
    """The user's other images are an npz, for which eval follows OpenAI's evaluator."""
    evaluate("ref.npz", ["samples.npz"], **RULER, protocol=made_by, save=Path("saved.npz"))
    found = place.tune(*GRID, ref="saved.npz", out=made_by)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if ": jboost eval" in line]
    words = shlex.split(line.split(": ")[1])
    printed = words[words.index("--protocol") + 1] if "--protocol" in words else None
    fids = {
        protocol: evaluate("ref.npz", ["samples.npz"], **RULER, protocol=protocol).samples[0].metrics["fid"].value
        for protocol in ("openai", "pytorch-fid", None)
    }
    assert fids["openai"] != pytest.approx(fids["pytorch-fid"], rel=0.1)
    assert found["protocol"] == made_by
    assert found["unboosted"] == pytest.approx(fids[made_by]) == pytest.approx(fids[printed])


def test_statistics_that_name_no_program_need_the_protocol(place, capsys) -> None:
    np.savez("stats.npz", mu=np.zeros(8), sigma=np.eye(8))
    arguments = place.arguments(*GRID, ref="stats.npz", out="unnamed")
    assert main._run(arguments) == 2
    assert "add --protocol pytorch-fid" in capsys.readouterr().err.splitlines()[-1]
    assert main._run([*arguments, "--protocol", "pytorch-fid"]) == 0  # the remedy
    assert "--protocol pytorch-fid" in capsys.readouterr().out
