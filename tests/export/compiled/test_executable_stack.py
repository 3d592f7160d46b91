from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch

from jboost.export.compiled.aoti import compile_package, write_package
from jboost.export.compiled.executable_stack import without_executable_stack

pytestmark = pytest.mark.skipif(shutil.which("readelf") is None, reason="binutils are not installed")


def stack(library: Path) -> str:
    """The flags of the stack's program header, as binutils print them."""
    said = subprocess.run(["readelf", "-lW", library], capture_output=True, text=True, check=True).stdout
    line = next(line for line in said.splitlines() if "GNU_STACK" in line)
    return line.split()[6]


def test_a_library_asks_for_no_executable_stack_and_is_otherwise_the_same(tmp_path) -> None:
    source, library = tmp_path / "a.c", tmp_path / "a.so"
    source.write_text("int answer() { return 42; }")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-z,execstack", "-o", library, source], check=True)
    assert stack(library) == "RWE"
    before = library.read_bytes()
    after = without_executable_stack(before)
    library.write_bytes(after)
    assert stack(library) == "RW"
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1


@pytest.mark.parametrize("content", [b"", b"not a library", b"\x7fELF\x01\x01 of 32 bits"])
def test_what_is_no_elf_library_stays_as_it_is(content) -> None:
    assert without_executable_stack(content) == content


def test_the_other_members_of_a_package_stay_as_they_are(tmp_path) -> None:
    buffer = io.BytesIO()
    with ZipFile(buffer, "w") as package:
        package.writestr("archive/version", "6\n")
        package.writestr("archive/model/a.so", b"no library")
    write_package(buffer, tmp_path / "a.pt2")
    with ZipFile(tmp_path / "a.pt2") as package:
        assert {name: package.read(name) for name in package.namelist()} == {
            "archive/version": b"6\n",
            "archive/model/a.so": b"no library",
        }


def test_a_compiled_package_loads_where_stacks_must_not_be_executable(tmp_path) -> None:
    model = torch.nn.Linear(2, 2).eval()
    with torch.no_grad():
        compile_package(torch.export.export(model, (torch.rand(1, 2),)), tmp_path / "a.pt2", "cpu")
    with ZipFile(tmp_path / "a.pt2") as package:
        names = [name for name in package.namelist() if name.endswith(".so")]
        assert names
        for name in names:
            assert stack(Path(package.extract(name, tmp_path))) == "RW"
