"""The kernels through NVIDIA's compilers, which need no GPU, and what is said where something is missing."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from jboost.engine.backends.cuda import capture, compiler, kernels
from jboost.engine.backends.cuda.device import OutOfDeviceMemoryError
from jboost.engine.backends.cuda.layout import Layout
from jboost.engine.backends.cuda.pycuda_device import import_driver
from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.method.updates import MOVES

NAMES = (*map(kernels.step_kernel, MOVES), kernels.ADMIT, kernels.COLLECT, kernels.TO_FLOAT)


@pytest.mark.parametrize("arch", ["sm_80", "sm_86", "sm_89", "sm_90", "sm_120"])
def test_nvcc_compiles_the_kernels(tmp_path, arch) -> None:
    nvcc = compiler.find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc, or a host compiler for it, is not installed")
    source, cubin = tmp_path / "kernels.cu", tmp_path / "kernels.cubin"
    source.write_text(kernels.source())
    command = [
        nvcc,
        "-cubin",
        *kernels.OPTIONS,
        "-Werror",
        "all-warnings",
        f"-arch={arch}",
        str(source),
        "-o",
        str(cubin),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name.encode() in cubin.read_bytes() for name in NAMES)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 0)])
def test_nvrtc_compiles_the_kernels_where_there_is_no_nvcc(monkeypatch, capability) -> None:
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc")
    try:
        nvrtc.nvrtcVersion()
    except RuntimeError as e:
        pytest.skip(f"NVRTC is not installed: {e}")
    monkeypatch.setattr(compiler, "find_nvcc", lambda: None)
    cubin = compiler.compile_kernels(kernels.source(), capability)
    assert cubin.startswith(b"\x7fELF")
    assert all(name.encode() in cubin for name in NAMES)
    with pytest.raises(FailureError, match=r"NVRTC cannot compile the kernels for sm_90: .*undefined_name"):
        compiler.compile_kernels("__global__ void f() { undefined_name(); }", (9, 0))


def test_nvcc_is_found_where_cuda_home_says(tmp_path, monkeypatch) -> None:
    tool = tmp_path / "bin" / "nvcc"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    monkeypatch.setattr(compiler.shutil, "which", _which(compiler.shutil.which, gxx=True))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert compiler.find_nvcc() == str(tool)
    monkeypatch.setattr(compiler.shutil, "which", lambda *_, **__: None)
    assert compiler.find_nvcc() is None  # it cannot work without a host compiler


def _which(real, gxx):
    return lambda name, path=None: "/usr/bin/g++" if gxx and name == "g++" else real(name, path=path)


@pytest.mark.parametrize(
    ("hidden", "call", "said"),
    [
        ("pycuda", import_driver, "pip install pycuda cuda-python"),
        ("cuda.bindings", capture._driver, "pip install cuda-python"),
        ("cuda.bindings", lambda: compiler._nvrtc("", "sm_90"), r"pip install 'cuda-python\[all\]'"),
    ],
)
def test_a_missing_package_is_named_with_what_to_type(monkeypatch, hidden, call, said) -> None:
    for name in [n for n in sys.modules if n == hidden or n.startswith(f"{hidden}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(BadInputError, match=said):
        call()


def test_the_package_loads_without_a_gpus_libraries() -> None:
    modules = ["pycuda_device", "runner", "flight", "capture", "compiler"]
    code = f"import sys\nfor m in {modules}: __import__('jboost.engine.backends.cuda.' + m)\n" + (
        "assert not {'pycuda', 'cuda', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_out_of_memory_says_what_to_type() -> None:
    assert str(OutOfDeviceMemoryError(3 << 20, 1 << 20)) == (
        "out of GPU memory (3 MiB needed, 1 MiB free); use a smaller batch: -b N"
    )


def test_packed_arrays_do_not_overlap_and_are_aligned() -> None:
    layout = Layout({"flags": (np.bool_, (3,)), "images": (np.float32, (3, 2, 5)), "y": (np.int64, (3,))})
    addresses = layout.addresses(1024)
    assert all(address % 256 == 0 for address in addresses.values())
    buffer = np.zeros(layout.nbytes, np.uint8)
    views = layout.views(buffer)
    for value, view in enumerate(views.values(), 1):
        view[...] = value
    assert [float(view.astype(float).sum()) for view in views.values()] == [3, 60, 9]
    assert layout.end("images", 2) == addresses["images"] - 1024 + 2 * 10 * 4
    assert layout.end("y", 3) == layout.nbytes
