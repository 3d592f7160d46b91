"""torch.export archives from elsewhere: what can run code is refused, what programs need is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from strangers import PAYLOADS, poison
from torch import nn

from jboost.engine.backends.program import load_program
from jboost.engine.errors import BadInputError
from jboost.export.forward import save_forward_program, verify_forward_program


@pytest.mark.parametrize("payload", PAYLOADS)
def test_code_in_a_program_never_runs(bundle, tmp_path, payload) -> None:
    forward, marker = Path(shutil.copy(bundle / "forward.pt2", tmp_path)), tmp_path / "ran"
    poison(forward, payload, marker)
    x = torch.rand(2, 3, 16, 16)
    if payload == "sample inputs":  # nothing reads them, so the program works
        torch.testing.assert_close(load_program(forward, "cpu")(x), load_program(bundle / "forward.pt2", "cpu")(x))
    else:
        with pytest.raises(BadInputError) as e:
            load_program(forward, "cpu")(x)
        assert "\n" not in str(e.value)
        assert "export it again" in str(e.value) or "export the bundle again" in str(e.value)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04" + bytes(100)])
def test_other_files_are_refused_in_one_line(tmp_path, content) -> None:
    (tmp_path / "a.pt2").write_bytes(content)
    with pytest.raises(BadInputError, match=r"is not a torch\.export program"):
        load_program(tmp_path / "a.pt2", "cpu")


class Tokens(nn.Module):
    """Attention, einsum and a part without gradients: what a small vision transformer needs."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.rand(1, 16, 8))
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            level = x.mean((1, 2, 3), keepdim=True)
        tokens = self.patches(x - level).flatten(2).transpose(1, 2) + self.place
        tokens = torch.einsum("bij,jk->bik", self.block(tokens), self.head.weight.T @ self.head.weight)
        return self.head(tokens.mean(1))


class Scaled(nn.Module):
    """Pooling, rescaling and shapes that depend on the image's size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.max_pool2d(nn.functional.gelu(self.stem(x)), 2)
        h = nn.functional.interpolate(h, scale_factor=2, mode="bilinear")
        return self.head(h.view(h.shape[0], 8, -1).mean(-1))


@pytest.mark.parametrize("model", [Tokens, Scaled])
def test_other_networks_survive(tmp_path, model) -> None:
    torch.manual_seed(0)
    network = model().eval().requires_grad_(False)
    save_forward_program(network, tmp_path / "a.pt2", in_channels=3, resolutions=(16,))
    verify_forward_program(network, tmp_path / "a.pt2", in_channels=3, resolutions=(16,), atol=1e-4, rtol=1e-3)
