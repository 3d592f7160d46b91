"""What a bundle gives away about the machine that made it: no folders, no source lines."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir

import jboost.engine
from jboost.engine.backends.compiled.packages import load_package
from jboost.export.bundle import export_bundle
from jboost.export.compiled.aoti import compile_package
from jboost.export.compiled.new_process import check_in_new_process

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.head = torch.nn.Linear(3, num_classes)

    def forward(self, x):
        return self.head(x.mean((2, 3)))  # unreleased-trick

def net(num_classes):
    return Net(num_classes)
"""
SECRETS = [str(Path(jboost.engine.__path__[0])), torch.__path__[0], cache_dir(), "unreleased-trick", "self.head("]


def contents(file: Path) -> list[bytes]:
    """The file, and each member of an archive."""
    found = [file.read_bytes()]
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            found += [archive.read(name) for name in archive.namelist()]
    return found


def test_a_bundle_holds_neither_folders_nor_source_lines(tmp_path, monkeypatch) -> None:
    (tmp_path / "secret_module.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    torch.save({"head.weight": torch.rand(4, 3), "head.bias": torch.rand(4)}, tmp_path / "a.pt")
    export_bundle(
        tmp_path / "a.pt",
        tmp_path / "bundle",
        arch="secret_module:net",
        num_classes=4,
        normalization="none",
        resolutions=(8,),
    )
    files = [file for file in (tmp_path / "bundle").rglob("*") if file.is_file()]
    assert {file.suffix for file in files} >= {".pt2", ".onnx", ".safetensors", ".json"}
    for file in files:
        for content in contents(file):
            for secret in [*SECRETS, str(tmp_path)]:
                assert secret.encode() not in content, (file, secret)


class Net(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * 2 + 1).relu()  # unreleased-trick


def test_a_package_holds_neither_and_still_loads_in_a_new_process(tmp_path) -> None:
    path = tmp_path / "a.pt2"
    with torch.no_grad():
        compile_package(torch.export.export(Net().eval(), (torch.rand(2, 3),)), path, "cpu")
    for content in contents(path):
        for secret in SECRETS:
            assert secret.encode() not in content, secret
    check_in_new_process(path, "cpu")
    x = torch.rand(2, 3)
    torch.testing.assert_close(load_package(path, "cpu")(x)[0], Net()(x))
