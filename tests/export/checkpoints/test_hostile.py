"""Checkpoints made to take time or memory, and tensors without plain values: one line, at once."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import torch
from checkpoint_cases import network
from safetensors.torch import save_file

from jboost.engine.errors import BadInputError
from jboost.export.checkpoints import recognise
from jboost.export.checkpoints.load import load_checkpoint
from jboost.trainer.checkpoint import METADATA_KEY

pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


@pytest.fixture(scope="module")
def good() -> dict[str, torch.Tensor]:
    return network("small_resnet8", 5).state_dict()


def refusal(path: Path, content: Any = None) -> str:
    if content is not None:
        torch.save(content, path)
    start = process_time()
    with pytest.raises(BadInputError) as e:
        load_checkpoint(path)
    assert process_time() - start < 10
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600
    return str(e.value)


def test_a_good_one_still_loads(tmp_path, good) -> None:
    for wrapper in ("", "module.", "module.model.", "module." * 30):
        torch.save({wrapper + name: tensor for name, tensor in good.items()}, tmp_path / "a.pt")
        assert load_checkpoint(tmp_path / "a.pt").info.num_classes == 5


@pytest.mark.parametrize("prefix", ["module." * 33, "module." * 1000, "model.module.net." * 20])
def test_a_thousand_wrappers_are_refused_with_a_remedy(tmp_path, good, prefix) -> None:
    said = refusal(tmp_path / "a.pt", {prefix + name: tensor for name, tensor in good.items()})
    assert "state_dict()" in said


def test_removing_wrappers_stops_at_the_limit(good) -> None:
    weights = {"module." * 200 + name: tensor for name, tensor in good.items()}
    seen = []
    with pytest.raises(BadInputError, match="more than 32 wrappers"):
        seen.extend(recognise.views(weights))


def test_a_hundred_thousand_tensors_are_refused_before_they_are_read(tmp_path) -> None:
    torch.save({f"a{i}": torch.zeros(1) for i in range(60_000)}, tmp_path / "a.pt")
    assert "60,0" in refusal(tmp_path / "a.pt")
    save_file({f"a{i}": torch.zeros(1) for i in range(60_000)}, tmp_path / "a.safetensors")
    assert "60,000 tensors, at most 50,000" in refusal(tmp_path / "a.safetensors")


def test_the_time_grows_with_the_number_of_keys_and_no_faster(tmp_path, good) -> None:
    def seconds(count: int) -> float:
        torch.save(good | {f"block1.layer.{i}.a": torch.zeros(1) for i in range(count)}, tmp_path / "a.pt")
        start = process_time()
        with pytest.raises(BadInputError):
            load_checkpoint(tmp_path / "a.pt")
        return process_time() - start

    seconds(100)
    assert seconds(16_000) < 12 * seconds(4_000)


def test_tensors_without_plain_values_are_named(tmp_path, good) -> None:
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])
    assert "fc.bias" in (said := refusal(tmp_path / "a.pt", good | {"fc.bias": nested}))
    assert "is a nested tensor; save" in said
    said = refusal(tmp_path / "a.pt", {name: tensor.to("meta") for name, tensor in good.items()})
    assert "is a meta tensor" in said
    said = refusal(tmp_path / "a.pt", good | {"fc.bias": torch.zeros(1).expand(10**12)})
    assert "fc.bias" in said
    assert "repeats its values" in said


def test_a_stored_description_out_of_range_is_refused(tmp_path, checkpoint) -> None:
    data = checkpoint.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    info = json.loads(header["__metadata__"][METADATA_KEY])
    for key, value in (("num_classes", 10**18), ("in_channels", 10**18), ("num_classes", 2**70), ("l0", 10**400)):
        header["__metadata__"][METADATA_KEY] = json.dumps(info | {key: value})
        text = json.dumps(header).encode()
        (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
        assert "description" in refusal(tmp_path / "a.safetensors")
    header["__metadata__"][METADATA_KEY] = "[" * 100_000
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    refusal(tmp_path / "a.safetensors")
