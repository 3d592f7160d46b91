"""Architectures of the user's, and what is refused in one line."""

from __future__ import annotations

import fractions
import pickle
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_cases import NONE, StateDict, check, network, prefixed, refused
from safetensors.torch import save_file
from torch import nn

from jboost.export.checkpoints.read import read_weights
from jboost.trainer.checkpoint import ModelInfo, save_checkpoint
from jboost.trainer.joint import JointModel

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


FACTORY = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, in_channels):
        super().__init__()
        self.model = nn.Conv2d(in_channels, 4, 3)
        self.register_buffer("mean", torch.full((4, 1, 1), 0.5))
        self.register_buffer("grid", torch.arange(4.0).reshape(4, 1, 1), persistent=False)
        self.register_buffer("index", torch.tensor([3, 2, 1, 0]))
        self.head = nn.Linear(4, num_classes)

    def forward(self, x):
        return self.head((self.model(x)[:, self.index] * self.grid - self.mean).mean((2, 3)))

def build(num_classes, in_channels=3):
    return Net(num_classes, in_channels)

def fixed(num_classes):
    open("was_called", "w").close()
    return Net(10, 3)
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    (tmp_path / "jb_custom.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    yield network("jb_custom:build", 6, in_channels=2)
    del sys.modules["jb_custom"]


def test_a_factorys_network_is_filled(factory: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "custom.pt"
    for prefix in ("", "module.", "model."):
        torch.save({"state_dict": prefixed(prefix, factory.state_dict())}, path)
        refused(path, "--arch", "package.module:factory")
        # The names are unknown, so the built network's first layer says which weights hold the number of channels.
        refused(path, "2-channel images", "--normalize imagenet, cifar10, none or", arch="jb_custom:build")
        check(path, factory, ((0.0,) * 2, (1.0,) * 2), arch="jb_custom:build", normalization="none")
        torch.save({"state_dict": prefixed(prefix, {**factory.state_dict(), **normaliser(2)})}, path)
        assert check(path, factory, ((0.25,) * 2, (0.5,) * 2), arch="jb_custom:build").info.num_classes == 6


def normaliser(channels: int) -> StateDict:
    return {"normalize.mean": torch.full((channels,), 0.25), "normalize.std": torch.full((channels,), 0.5)}


def test_the_number_of_classes_is_asked_for_and_checked(factory: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "custom.pt"
    renamed = {n.replace("head.", "last."): t for n, t in factory.state_dict().items()}
    torch.save(renamed, path)
    refused(path, "--num-classes", arch="jb_custom:build")
    torch.save(factory.state_dict(), path)
    refused(path, "6 classes, not 7", "leave --num-classes out", arch="jb_custom:build", num_classes=7)


def test_a_file_does_not_choose_the_code_that_runs(factory: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    info = ModelInfo("jb_custom:build", 6, 2, (0.5,) * 2, (0.5,) * 2)
    save_checkpoint(path, JointModel(factory, info.mean, info.std), info)
    check(path, factory, (info.mean, info.std), arch="jb_custom:build")
    evil = ModelInfo("jb_custom:fixed", 6, 2, (0.5,) * 2, (0.5,) * 2)
    save_checkpoint(path, JointModel(factory, info.mean, info.std), evil)
    refused(path, "--arch jb_custom:fixed", "trust")
    assert not (tmp_path / "was_called").exists()


def test_weights_that_do_not_fit_are_listed(wrn: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "odd.pt"
    sd = wrn.state_dict()
    torch.save({**{n: t for n, t in sd.items() if n != "bn1.bias"}, "surplus": torch.ones(1)}, path)
    refused(path, "wrn_10_1", "missing: bn1.bias", "unexpected: surplus")
    torch.save({**sd, "block2.layer.0.bn1.weight": torch.ones(3)}, path)
    refused(path, "wrong shape: block2.layer.0.bn1.weight [3] where [16] is needed")
    torch.save({n: t for n, t in sd.items() if not n.startswith("block3.")}, path)
    total = sum(n.startswith("block3.") and "num_batches" not in n for n in sd)
    message = refused(path, f"and {total - 8} more")
    assert message.count("block3.") == 8
    torch.save({n: t for n, t in sd.items() if not n.startswith("fc.")}, path)
    refused(path, "missing: fc.weight, fc.bias")


def test_contradictions_of_the_weights(wrn: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "wrn.pt"
    torch.save(wrn.state_dict(), path)
    refused(path, "5 classes, not 10", "leave --num-classes out", num_classes=10)
    refused(path, "wrn_10_1, not resnet50", "leave --arch out", arch="resnet50")
    refused(path, "unknown architecture", arch="resnet_50")
    refused(path, "cannot read the normalisation", normalization="0.5;0.5")
    refused(path, "resolution", resolution=0)


def test_unknown_weights_ask_for_the_architecture(tmp_path: Path) -> None:
    path = tmp_path / "vgg.pt"
    torch.save({"features.0.weight": torch.ones(4, 3, 3, 3), "classifier.6.weight": torch.ones(10, 4)}, path)
    refused(path, "--arch", "features.0.weight")
    refused(path, "missing: conv1.weight", "unexpected: features.0.weight", arch="wrn_10_1")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(wrn: nn.Module, tmp_path: Path, value: float) -> None:
    path = tmp_path / "nan.pt"
    sd = {n: t.clone() for n, t in wrn.state_dict().items()}
    sd["block2.layer.0.bn2.running_var"][3] = value
    torch.save(sd, path)
    refused(path, "block2.layer.0.bn2.running_var", "NaN or infinite")


def test_weights_of_other_types_are_named(wrn: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "int8.pt"
    torch.save({**wrn.state_dict(), "fc.weight": torch.ones(5, 64, dtype=torch.int8)}, path)
    refused(path, "fc.weight", "int8")
    torch.save({**wrn.state_dict(), "fc.weight": torch.ones(5, 64).to_sparse()}, path)
    refused(path, "fc.weight", "sparse")


def test_a_normaliser_of_other_channels_is_refused(wrn: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "two.pt"
    torch.save({**wrn.state_dict(), "mu": torch.rand(2), "sigma": torch.ones(2)}, path)
    refused(path, "2 means", "--normalize")
    check(path, wrn, NONE, normalization="none")


def write_truncated_zip(path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(4000)}, path)
    path.write_bytes(path.read_bytes()[:5000])


def write_truncated_legacy(path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(4000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:5000])


def write_truncated_safetensors(path: Path) -> None:
    save_file({"conv1.weight": torch.ones(4000)}, path)
    path.write_bytes(path.read_bytes()[:5000])


def write_samples(path: Path) -> None:
    with open(path, "wb") as file:
        np.savez(file, arr_0=np.zeros((2, 4, 4, 3), np.uint8))


NOT_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing.pt": (lambda path: None, "no checkpoint file"),
    "missing.safetensors": (lambda path: None, "no checkpoint file"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty.pt": (lambda path: path.touch(), "is empty"),
    "empty.safetensors": (lambda path: path.touch(), "is empty"),
    "page.pt": (lambda path: path.write_text("<html>404 not found</html>"), "not a checkpoint"),
    "page.safetensors": (lambda path: path.write_text("<html>404 not found</html>"), "not a readable safetensors"),
    "zip.pt": (write_truncated_zip, "truncated"),
    "legacy.pt": (write_truncated_legacy, "truncated"),
    "cut.safetensors": (write_truncated_safetensors, "not a readable safetensors"),
    "samples.npz": (write_samples, "holds arrays, like a set of samples"),
    "script.pt": (lambda path: torch.jit.save(torch.jit.script(nn.Linear(1, 1)), path), "TorchScript"),
    "pickle.pt": (lambda path: path.write_bytes(pickle.dumps({"a": 1}, protocol=4)), "not a checkpoint"),
    "list.pt": (lambda path: torch.save([torch.ones(1)], path), "a list, not a state dict"),
    "tensor.pt": (lambda path: torch.save(torch.ones(1), path), "a Tensor, not a state dict"),
    "log.pt": (lambda path: torch.save({"epoch": 3, "loss": 0.1}, path), "a dict of epoch, loss"),
    "none.pt": (lambda path: torch.save({}, path), "not a state dict"),
    "none.safetensors": (lambda path: save_file({}, path), "no tensors"),
}


@pytest.mark.parametrize("name", NOT_CHECKPOINTS)
def test_what_is_no_checkpoint_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    write, word = NOT_CHECKPOINTS[name]
    write(tmp_path / name)
    refused(tmp_path / name, word, str(tmp_path / name))


class Harmful:
    """Touches a file when it is unpickled."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.victim), "w")


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_does_not_run(wrn: nn.Module, tmp_path: Path, zipped: bool) -> None:
    path, victim = tmp_path / "harm ful.pt", tmp_path / "victim"
    torch.save({"model": wrn.state_dict(), "x": Harmful(victim)}, path, _use_new_zipfile_serialization=zipped)
    refused(path, "pickled code", "open", "never runs", "trust", "safetensors", arch="wrn_10_1")
    assert not victim.exists()
    torch.load(path, weights_only=False)["x"].close()  # the file does what it is meant to
    assert victim.exists()


def test_the_conversion_that_the_refusal_names_works(wrn: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "it's a run.pt"
    averaged = prefixed("module.", wrn.state_dict())
    content = {name: torch.zeros_like(tensor) for name, tensor in averaged.items()}
    torch.save(
        {"epoch": 1, "args": fractions.Fraction(1), "arch": "wrn", "model": content, "ema": {"module": averaged}}, path
    )
    message = refused(path, "fractions.Fraction", "only if you trust the file")
    command = re.search(r"python (-c .*)", message)
    assert command is not None
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} {command[1]}", shell=True, check=True, capture_output=True, text=True
    )
    assert done.stdout == "weights: entry ema\n"
    check(path.with_suffix(".safetensors"), wrn, NONE)
    assert read_weights(path.with_suffix(".safetensors")).arch == "wrn"
