"""Networks that the checkpoint tests save."""

from __future__ import annotations

import pytest
from checkpoint_cases import network
from torch import nn


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return network("resnet18", 7)


@pytest.fixture(scope="module")
def wrn() -> nn.Module:
    return network("wrn_10_1", 5)


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return network("small_resnet8", 4, in_channels=1)
