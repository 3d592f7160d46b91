"""Checkpoints of every kind give back the logits they were saved with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from checkpoint_cases import IMAGENET, NONE, check, prefixed
from safetensors.torch import save_file
from torch import nn

from jboost.export.checkpoints.load import load_checkpoint
from jboost.trainer.architectures import build_network
from jboost.trainer.joint import NORMALIZATIONS


def test_the_released_checkpoints(resnet: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "joint.pt"
    torch.save({"dummy": torch.tensor(0.0), **prefixed("model.", resnet.state_dict())}, path)
    loaded = check(path, resnet, IMAGENET)
    assert (loaded.info.arch, loaded.info.num_classes, loaded.info.in_channels) == ("resnet18", 7, 3)
    assert (loaded.info.resolution, loaded.info.l0) == (64, None)
    assert any("released" in note for note in loaded.notes)
    assert any("ImageNet" in note and "--normalize" in note for note in loaded.notes)
    assert load_checkpoint(path, resolution=96).info.resolution == 96


def test_torchvision_and_its_normalisation(resnet: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(resnet.state_dict(), path)
    loaded = check(path, resnet, IMAGENET, arch="resnet18", num_classes=7)
    assert loaded.info.resolution is None  # never guessed
    loaded = check(path, resnet, NONE, normalization="none")
    assert any("none (--normalize)" in note for note in loaded.notes)
    check(path, resnet, NORMALIZATIONS["cifar10"], normalization="cifar10")
    check(path, resnet, ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3)), normalization="0.5,0.4,0.3/0.1,0.2,0.3")


@pytest.mark.parametrize("container", ["model", "state_dict"])
def test_the_madry_lab(resnet: nn.Module, tmp_path: Path, container: str) -> None:
    stats = ((0.4717, 0.4499, 0.3837), (0.2600, 0.2516, 0.2575))
    mean, std = (torch.tensor(v)[:, None, None] for v in stats)
    sd = resnet.state_dict()
    inside = {
        "normalizer.new_mean": mean,
        "normalizer.new_std": std,
        **prefixed("model.", sd),
        # Other values than the model's: whoever takes these is wrong.
        "attacker.normalize.new_mean": torch.zeros(3, 1, 1),
        "attacker.normalize.new_std": torch.ones(3, 1, 1),
        **prefixed("attacker.model.", {name: torch.zeros_like(tensor) for name, tensor in sd.items()}),
    }
    path = tmp_path / "madry.pt"
    torch.save({container: prefixed("module.", inside), "epoch": 3, "optimizer": {"state": {}}}, path)
    loaded = check(path, resnet, stats)
    assert loaded.info.mean == stats[0]  # 0.4717, not 0.47170001
    assert any("stored in the checkpoint" in note for note in loaded.notes)
    assert any("in place of" in note for note in check(path, resnet, IMAGENET, normalization="imagenet").notes)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "network."]
)
def test_prefixes_of_wrappers(wrn: nn.Module, tmp_path: Path, prefix: str) -> None:
    path = tmp_path / "wrapped.pt"
    torch.save(prefixed(prefix, wrn.state_dict()), path)
    assert check(path, wrn, NONE).info.arch == "wrn_10_1"


def test_averaged_and_compiled_modules(wrn: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "ema.pt"
    torch.save(torch.optim.swa_utils.AveragedModel(wrn).state_dict(), path)
    check(path, wrn, NONE)
    inside = {name.replace("block1.", "block1._orig_mod."): tensor for name, tensor in wrn.state_dict().items()}
    torch.save(inside, path)
    check(path, wrn, NONE)


def test_trades_unused_block_is_left_out(wrn: nn.Module, tmp_path: Path) -> None:
    sd = wrn.state_dict()
    unused = {f"sub_{name}": torch.zeros_like(tensor) for name, tensor in sd.items() if name.startswith("block1.")}
    path = tmp_path / "trades.pt"
    torch.save(prefixed("module.", {**sd, **unused}), path)
    loaded = check(path, wrn, NONE)
    assert (loaded.info.resolution, loaded.info.num_classes) == (32, 5)
    assert any("sub_block1" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("names", "shape", "prefix"),
    [
        (("mu", "sigma"), (1, 3, 1, 1), ""),
        (("mu", "sigma"), (3, 1, 1), ""),
        (("normalize.mean", "normalize.std"), (1, 3, 1, 1), "model."),
        (("mean", "std"), (3,), ""),
        (("mean", "std"), (1, 3, 1, 1), "model."),
        (("0.mean", "0.std"), (3,), "1."),
    ],
)
def test_robustbench_normalisers(
    wrn: nn.Module, tmp_path: Path, names: tuple[str, str], shape: tuple[int, ...], prefix: str
) -> None:
    stats = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
    normaliser = {name: torch.tensor(values).reshape(shape) for name, values in zip(names, stats, strict=True)}
    path = tmp_path / "rb.pt"
    torch.save({"state_dict": {**normaliser, **prefixed(prefix, wrn.state_dict())}}, path)
    assert check(path, wrn, stats).info.std == stats[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_become_float32(wrn: nn.Module, tmp_path: Path, dtype: torch.dtype) -> None:
    rounded = {n: t.to(dtype) if t.is_floating_point() else t for n, t in wrn.state_dict().items()}
    same = build_network("wrn_10_1", 5).eval()
    same.load_state_dict({n: t.float() for n, t in rounded.items()})
    torch.save(rounded, tmp_path / "half.pt")
    save_file(rounded, tmp_path / "half.safetensors")
    for name in ("half.pt", "half.safetensors"):
        loaded = check(tmp_path / name, same, NONE)
        assert any("converted to float32" in note for note in loaded.notes)


def test_batch_counters_do_not_matter(wrn: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save({n: t for n, t in wrn.state_dict().items() if "num_batches" not in n}, path)
    check(path, wrn, NONE)
    torch.save({**wrn.state_dict(), "extra.num_batches_tracked": torch.tensor(3)}, path)
    check(path, wrn, NONE)


def test_files_are_told_by_their_content(wrn: nn.Module, tmp_path: Path) -> None:
    misnamed, legacy = tmp_path / "weights.bin", tmp_path / "legacy.pt"
    save_file(wrn.state_dict(), misnamed)
    torch.save(wrn.state_dict(), legacy, _use_new_zipfile_serialization=False)
    check(misnamed, wrn, NONE)
    check(legacy, wrn, NONE)


@pytest.mark.parametrize(
    "key", ["state_dict_ema", "ema", "model_ema", "model", "state_dict", "module", "weights", "params", "net"]
)
def test_the_entry_of_the_weights(wrn: nn.Module, tmp_path: Path, key: str) -> None:
    """Averaged weights are preferred to those of the last step, and the note says so."""
    path = tmp_path / "two.pt"
    spare = {n: t * 0 for n, t in wrn.state_dict().items()}
    averaged = "ema" in key
    torch.save({"epoch": 3, "optimizer": {"state": {}}, key: wrn.state_dict()}, path)
    check(path, wrn, NONE)
    torch.save({"model" if averaged else "zz": spare, key: wrn.state_dict(), "decay": 0.9}, path)
    note = next(note for note in check(path, wrn, NONE).notes if note.startswith("weights: entry"))
    assert (repr(key) in note, "averaged weights are preferred" in note) == (True, averaged)
    torch.save({"epoch": 3, key: {"module": prefixed("module.", wrn.state_dict())}}, path)
    check(path, wrn, NONE)
