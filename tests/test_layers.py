"""Imports point one way: jboost -> export -> trainer -> engine."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("engine", "trainer", "export", "jboost")  # lowest first


def imported(file: Path) -> set[str]:
    """The layers that a file imports from."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
        elif isinstance(node, ast.ImportFrom) and file.parent == ROOT / "jboost":
            names.add(f"jboost.{node.module or ''}")
    parts = [name.split(".") for name in names]
    return {p[1] if len(p) > 1 and p[1] in LAYERS else "jboost" for p in parts if p[0] == "jboost"}


@pytest.mark.parametrize("layer", LAYERS)
def test_no_layer_imports_a_higher_one(layer: str) -> None:
    higher = set(LAYERS[LAYERS.index(layer) + 1 :])
    files = list((ROOT / layer).rglob("*.py"))
    assert files
    assert {str(f): imported(f) & higher for f in files if imported(f) & higher} == {}


def test_nothing_imports_torchvision() -> None:
    for layer in LAYERS:
        for file in (ROOT / layer).rglob("*.py"):
            assert "torchvision" not in {n.split(".")[0] for n in _modules(file)}, file


def _modules(file: Path) -> set[str]:
    tree = ast.walk(ast.parse(file.read_text()))
    return {a.name for node in tree if isinstance(node, ast.Import) for a in node.names} | {
        node.module or "" for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)
    }
