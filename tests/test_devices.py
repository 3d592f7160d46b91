from __future__ import annotations

import pytest
import torch

from jboost.engine.errors import BadInputError
from jboost.engine.system.devices import DeviceName, device_kind


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "cuda", "cuda:0", "cuda:17"])
def test_a_name_means_what_it_means_to_torch(name: str) -> None:
    parsed, torchs = DeviceName.parse(name), torch.device(name)
    assert (parsed.kind, parsed.number) == (torchs.type, torchs.index)
    assert (parsed.index, device_kind(name)) == (torchs.index or 0, torchs.type)


def test_auto_is_a_kind_of_its_own() -> None:
    assert DeviceName.parse("auto") == DeviceName("auto")


@pytest.mark.parametrize(
    "name", ["", "tpu", "mps", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "auto:0", "cuda0", " cuda", "CUDA"]
)
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(BadInputError, match=r"unknown device .*; use auto, cpu, cuda or cuda:N"):
        DeviceName.parse(name)
