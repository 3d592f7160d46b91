"""Imports point one way: jboost -> export -> trainer -> engine, and inside engine/ and export/ down a list of parts."""

from __future__ import annotations

import ast
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = ("engine", "trainer", "export", "jboost")  # lowest first

#: What stands in each layer, lowest first: a folder or a file may import itself and what stands before it.
PARTS = {
    "engine": ("errors", "system", "method", "samples", "results", "shards", "loop", "manifest", "bundle", "backends"),
    "export": (
        "opsets", "request", "stages", "checkpoints", "graph", "verification", "onnx", "compiled", "trt", "forward", "l0", "write",
        "verify", "bundle",
    ),
}  # fmt: skip
#: The engines do not know each other: what they share stands beside their folders. The exceptions, by engine: trt and onnx use the
#: CUDA loop, and an engine that cannot compute in float32 asks another one to.
BACKENDS = {"eager": (), "compiled": ("eager",), "cuda": (), "onnx": ("cuda",), "trt": ("cuda", "onnx")}


def modules() -> dict[str, Path]:
    """Every module of the package by its installed name."""
    found = {}
    for layer in LAYERS:
        for file in sorted((ROOT / layer).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts if layer == "jboost" else ("jboost", *parts))
            found[name.removesuffix(".__init__")] = file
    return found


MODULES = modules()


@cache
def imported(module: str) -> frozenset[str]:
    """The modules of the package that a module imports anywhere in its text: at the top, inside a function, or for types alone."""
    file = MODULES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{source}.{alias.name}" for alias in node.names} | {source}
    names = {name for name in names if name in MODULES}
    # `from package import module` names the package as well, of which nothing is used.
    return frozenset(n for n in names - {module} if not any(other.startswith(f"{n}.") for other in names))


def part(module: str) -> tuple[str, str]:
    """A module's layer, and the folder or file inside it."""
    _, *rest = module.split(".")
    if not rest or rest[0] not in LAYERS:
        return "jboost", rest[0] if rest else ""
    return rest[0], rest[1] if len(rest) > 1 else ""


@pytest.mark.parametrize("layer", LAYERS)
def test_no_layer_imports_a_higher_one(layer: str) -> None:
    here = [module for module in MODULES if part(module)[0] == layer]
    assert here
    higher = LAYERS[LAYERS.index(layer) + 1 :]
    assert [(m, other) for m in here for other in imported(m) if part(other)[0] in higher] == []


@pytest.mark.parametrize("layer", PARTS)
def test_no_part_of_a_layer_imports_a_higher_one(layer: str) -> None:
    order = PARTS[layer]
    here = {module: part(module)[1] for module in MODULES if part(module)[0] == layer and part(module)[1]}
    assert set(here.values()) == set(order), "a folder or file that the order does not name, or names in vain"
    wrong = [
        (module, other)
        for module, name in here.items()
        for other in imported(module)
        if other in here and order.index(here[other]) > order.index(name)
    ]
    assert wrong == []


def test_engines_do_not_import_each_other() -> None:
    prefix = "jboost.engine.backends."
    engines = {m: m.removeprefix(prefix).split(".")[0] for m in MODULES if m.startswith(prefix)}
    wrong = [
        (module, other)
        for module, name in engines.items()
        for other in imported(module)
        if name in BACKENDS and (engines.get(other) in BACKENDS) and engines[other] not in (name, *BACKENDS[name])
    ]
    assert wrong == []
    # What they share does not know them, but for the registry, which lists them.
    shared = [m for m, name in engines.items() if name not in BACKENDS and name != "registry"]
    assert [(m, other) for m in shared for other in imported(m) if engines.get(other) in BACKENDS] == []


def test_no_two_modules_import_each_other() -> None:
    """Nor does any ring of modules: what a module needs can be read before it."""
    reachable: dict[str, set[str]] = {}

    def reach(module: str) -> set[str]:
        if module not in reachable:
            reachable[module] = set()
            ahead, seen = list(imported(module)), set()
            while ahead:
                other = ahead.pop()
                if other not in seen:
                    seen.add(other)
                    ahead += imported(other)
            reachable[module] = seen
        return reachable[module]

    rings = sorted((a, b) for a in MODULES for b in imported(a) if a in reach(b))
    assert rings == []


def test_nothing_imports_torchvision() -> None:
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert "torchvision" not in {name.split(".")[0] for name in names}, module


def test_every_folder_is_installed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    packages = {module for module, file in MODULES.items() if file.name == "__init__.py"}
    assert packages <= set(listed)
    assert set(listed) - packages == {"jboost.report.templates"}  # no Python in it
