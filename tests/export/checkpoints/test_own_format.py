"""Our trainer's own format comes back whole, and a description that does not hold is refused."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_cases import check, prefixed, refused
from safetensors.torch import load_file, save_file
from torch import nn

from jboost.engine.errors import BadInputError, FailureError
from jboost.export.checkpoints.load import load_checkpoint
from jboost.trainer.checkpoint import ModelInfo, read_safetensors, save_checkpoint
from jboost.trainer.joint import JointModel


def small_info(**changes: Any) -> ModelInfo:
    info = {
        "arch": "small_resnet8",
        "num_classes": 4,
        "in_channels": 1,
        "mean": (0.3,),
        "std": (0.7,),
        "l0": 1.25,
        "class_names": ("a", "b", "ç", "d"),
        "resolution": 28,
    }
    return ModelInfo(**{**info, **changes})


@pytest.fixture
def ours(small: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "ours.safetensors"
    save_checkpoint(path, JointModel(small, (0.3,), (0.7,)), small_info())
    return path


def test_our_own_checkpoint_comes_back_whole(small: nn.Module, ours: Path) -> None:
    loaded = check(ours, small, ((0.3,), (0.7,)))
    assert loaded.info == small_info()
    assert all(name.startswith("network.") for name in load_file(ours))
    assert list(ours.parent.iterdir()) == [ours]  # nothing is left aside
    tensors, info = read_safetensors(ours)
    assert info == small_info()
    assert tensors.keys() == prefixed("network.", small.state_dict()).keys()
    # Repeating what the file says is no contradiction.
    check(ours, small, ((0.3,), (0.7,)), arch="small_resnet8", num_classes=4)
    assert load_checkpoint(ours, resolution=32).info.resolution == 32


def test_a_compiled_network_is_stored_under_its_own_names(small: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "compiled.safetensors"
    save_checkpoint(path, JointModel(torch.compile(small), (0.3,), (0.7,)), small_info())
    check(path, small, ((0.3,), (0.7,)))


def test_a_failed_write_leaves_the_old_file(ours: Path, small: nn.Module) -> None:
    before = ours.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))  # as a full disk: half of it is written
    try:
        with pytest.raises(FailureError, match="File too large"):
            save_checkpoint(ours, JointModel(small, (0.3,), (0.7,)), small_info())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert ours.read_bytes() == before
    assert list(ours.parent.iterdir()) == [ours]


def test_a_checkpoint_is_as_readable_as_any_new_file(ours: Path) -> None:
    other = ours.with_name("other")
    other.touch()
    assert ours.stat().st_mode == other.stat().st_mode


def test_what_is_written_is_the_model(small: nn.Module, tmp_path: Path) -> None:
    model = JointModel(small, (0.3,), (0.7,))
    with pytest.raises(BadInputError, match="mean"):
        save_checkpoint(tmp_path / "x.safetensors", model, small_info(mean=(0.4,)))
    with pytest.raises(BadInputError, match="create it"):
        save_checkpoint(tmp_path / "no" / "x.safetensors", model, small_info())


@pytest.mark.parametrize(
    "changes",
    [
        {"arch": ""},
        {"num_classes": 0},
        {"in_channels": 2},
        {"mean": (1.5,)},
        {"std": (0.0,)},
        {"std": (0.1, 0.2)},
        {"l0": -1.0},
        {"l0": float("nan")},
        {"class_names": ("a",)},
        {"resolution": 0},
    ],
)
def test_model_info_refuses_values_out_of_range(changes: dict[str, Any]) -> None:
    with pytest.raises(BadInputError):
        small_info(**changes)


def test_model_info_survives_json() -> None:
    for info in (small_info(), small_info(l0=None, class_names=None, resolution=None)):
        assert ModelInfo.from_dict(json.loads(json.dumps(info.to_dict()))) == info


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"format_version": 2}, "update jboost"),
        ({"arch": 3}, "text"),
        ({"num_classes": "4"}, "whole number"),
        ({"num_classes": True}, "whole number"),
        ({"mean": 0.5}, "list"),
        ({"std": ["x"]}, "number"),
        ({"class_names": [1, 2, 3, 4]}, "text"),
        ({"surprise": 1}, "surprise"),
        ({"l0": None, "std": [float("nan")]}, "std"),
    ],
)
def test_a_description_that_does_not_hold_is_refused(
    small: nn.Module, tmp_path: Path, changes: dict[str, Any], word: str
) -> None:
    path = tmp_path / "odd.safetensors"
    description = json.dumps({**small_info().to_dict(), **changes})
    save_file(prefixed("network.", small.state_dict()), path, metadata={"jboost": description})
    refused(path, word, str(path))


def test_a_description_that_is_no_json_is_refused(small: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    for text in ("{", "[]", "{}", "3"):
        save_file(prefixed("network.", small.state_dict()), path, metadata={"jboost": text})
        refused(path, "metadata")


def test_options_that_contradict_our_own_checkpoint(ours: Path) -> None:
    refused(ours, "small_resnet8", "leave --arch out", arch="resnet18")
    refused(ours, "4 classes", "leave --num-classes out", num_classes=10)
