"""Calling AOTInductor for a GPU, as far as it goes without one."""

from __future__ import annotations

import os
import subprocess

import pytest
import torch

from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.method.compare import class_logit_error
from jboost.export.compiled import aoti


class StopHereError(Exception):
    pass


@pytest.mark.parametrize(("given", "moved_to"), [("cuda", "cuda:1"), ("cuda:2", "cuda:2")])
def test_a_program_is_moved_to_a_device_with_a_number(given, moved_to, monkeypatch, tmp_path) -> None:
    """Programs assert their tensors' devices, to the letter: with "cuda" the steps' packages could not be compiled."""
    seen = []

    def move(program, device):
        seen.append(device)
        raise StopHereError

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(aoti, "move_to_device_pass", move)
    monkeypatch.setattr(aoti, "set_tf32", lambda on: None)
    with pytest.raises(StopHereError):
        aoti.compile_package(None, tmp_path / "a.pt2", given)
    assert seen == [moved_to]


def test_the_linker_finds_the_driver_that_is_loaded(monkeypatch, tmp_path) -> None:
    library, program = tmp_path / "libcuda.so.1", tmp_path / "program.cpp"
    program.write_text('extern "C" int of_the_driver(); int main() { return of_the_driver(); }')
    (tmp_path / "driver.cpp").write_text('extern "C" int of_the_driver() { return 0; }')
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, tmp_path / "driver.cpp"], check=True)
    link = ["g++", program, "-o", tmp_path / "program", "-lcuda"]
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(aoti, "_loaded_library", lambda name: library if name == "libcuda.so" else None)
    for before in (None, str(tmp_path / "elsewhere")):
        monkeypatch.delenv("LIBRARY_PATH", raising=False)
        if before is not None:
            monkeypatch.setenv("LIBRARY_PATH", before)
        with aoti._toolkit("cuda:0"):
            assert subprocess.run(link).returncode == 0
            assert before is None or os.environ["LIBRARY_PATH"].startswith(before)
        assert os.environ.get("LIBRARY_PATH") == before
    with aoti._toolkit("cpu"):
        assert os.environ.get("LIBRARY_PATH") == before


def test_the_compiler_finds_headers_that_torch_does_not_point_it_to(monkeypatch, tmp_path) -> None:
    """torch takes the folder above nvcc's for the toolkit; nvcc may be a script elsewhere."""
    headers, program = tmp_path / "headers", tmp_path / "program.cpp"
    headers.mkdir()
    (headers / "cuda.h").write_text("int of_cuda();")
    program.write_text("#include <cuda.h>\nint main() { return of_cuda(); }")
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(aoti, "_header_folders", lambda: [tmp_path, headers])
    monkeypatch.setenv("CPATH", str(tmp_path))
    with aoti._toolkit("cuda:0"):
        assert subprocess.run(["g++", "-c", program, "-o", tmp_path / "program.o"]).returncode == 0
    assert os.environ["CPATH"] == str(tmp_path)


def test_a_loaded_library_is_found_by_its_name() -> None:
    found = aoti._loaded_library("libc.so")
    assert found is not None
    assert found.is_file()
    assert aoti._loaded_library("libnothing.so") is None


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path) -> None:
    said = "C++ compile error\n\nCommand:\ng++ -lthing\n\nOutput:\n/usr/bin/ld: cannot find -lthing\ncollect2: error: ld returned 1"

    def fail(*args, **options):
        raise RuntimeError(said)

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", fail)
    with pytest.raises(FailureError, match="ld: cannot find -lthing") as e:
        aoti.compile_package(None, tmp_path / "a.pt2", "cpu")
    assert "\n" not in str(e.value)


def test_a_class_that_there_is_not_is_a_wrong_one() -> None:
    logits, y = torch.randn(4, 10, dtype=torch.float64), torch.arange(4)
    right = logits.argmax(1)
    f_c = logits[torch.arange(4), y]
    assert class_logit_error(f_c, right, logits, y)[1] == 0
    wrong = torch.where(torch.arange(4) < 2, torch.tensor([10, -1, 0, 0]), right)
    assert class_logit_error(f_c, wrong, logits, y)[1] == 2


def test_without_cudas_headers_it_says_so(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(aoti, "_header_folders", lambda: [tmp_path])
    aoti.check_compiler("cpu")
    with pytest.raises(BadInputError, match="CUDA_HOME"):
        aoti.check_compiler("cuda:0")
    (tmp_path / "cuda.h").touch()
    aoti.check_compiler("cuda:0")


def test_headers_are_looked_for_where_the_compiler_looks(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("CPATH", f"{tmp_path}{os.pathsep}")
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", str(tmp_path / "cuda"))
    assert {tmp_path, tmp_path / "cuda" / "include"} <= set(aoti._header_folders())
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    assert tmp_path in aoti._header_folders()
