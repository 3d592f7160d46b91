from __future__ import annotations

import pytest
import torch

from jboost.engine.backends.torch_device import TORCH_DTYPES
from jboost.engine.errors import BadInputError
from jboost.engine.system.devices import DeviceName, device_kind
from jboost.engine.system.dtypes import DTYPES, check_dtype


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


def test_every_dtype_has_one_in_torch() -> None:
    assert tuple(TORCH_DTYPES) == DTYPES
    for name, dtype in TORCH_DTYPES.items():
        check_dtype(name)
        assert dtype.itemsize * 8 == int(name[2:])
    with pytest.raises(BadInputError, match="unknown dtype 'int8'; choose one of fp32, fp16, bf16"):
        check_dtype("int8")
