"""Compiling CUDA C++ at run time: with nvcc if it and a host compiler are installed, else with NVRTC."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from jboost.engine.errors import BadInputError, FailureError, one_line

from .kernels import OPTIONS


def find_nvcc() -> str | None:
    """The path of nvcc: from CUDA_HOME or CUDA_PATH, else from the PATH, else from NVIDIA's wheels.

    None if there is no nvcc, or no host compiler for it.
    """
    if not (shutil.which("g++") or shutil.which("cl")):
        return None
    homes = [Path(os.environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if name in os.environ]
    spec = importlib.util.find_spec("nvidia")
    wheels = [Path(place) for place in (spec.submodule_search_locations or [] if spec else [])]
    homes_of_wheels = [home for place in wheels for home in (*sorted(place.glob("cu[0-9]*")), place / "cuda_nvcc")]
    found = (shutil.which("nvcc", path=str(home / "bin")) for home in homes)
    fallback = (shutil.which("nvcc", path=str(home / "bin")) for home in homes_of_wheels)
    return next((path for path in (*found, shutil.which("nvcc"), *fallback) if path), None)


def compile_kernels(source: str, capability: tuple[int, int]) -> bytes:
    """Compile `source` to a cubin. pycuda caches the output of nvcc.

    Args:
        source: CUDA C++ without includes.
        capability: the device's compute capability, such as (9, 0).

    Raises:
        BadInputError: no compiler is installed.
        FailureError: the source does not compile.
    """
    arch = f"sm_{capability[0]}{capability[1]}"
    nvcc = find_nvcc()
    return _nvrtc(source, arch) if nvcc is None else _nvcc(nvcc, source, arch)


def _nvcc(nvcc: str, source: str, arch: str) -> bytes:
    from pycuda.compiler import compile as compile_with
    from pycuda.driver import CompileError

    try:
        cubin: bytes = compile_with(source, nvcc=nvcc, options=list(OPTIONS), no_extern_c=True, arch=arch)
    except CompileError as e:
        raise FailureError(f"{nvcc} cannot compile the kernels for {arch}: {one_line(e.stderr or e.msg)}") from e
    return cubin


def _nvrtc(source: str, arch: str) -> bytes:
    try:
        from cuda.bindings import nvrtc

        success = nvrtc.nvrtcResult.NVRTC_SUCCESS
        error, program = nvrtc.nvrtcCreateProgram(source.encode(), b"kernels.cu", 0, [], [])
    except (ImportError, RuntimeError) as e:  # cuda.bindings finds libnvrtc when it is first called
        raise BadInputError(
            f"no compiler for the CUDA kernels: neither nvcc with a host compiler nor NVRTC ({one_line(e)}); install "
            "one with: pip install 'cuda-python[all]'"
        ) from e
    options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={arch}")]
    error = error if error != success else nvrtc.nvrtcCompileProgram(program, len(options), options)[0]
    if error != success:
        _, size = nvrtc.nvrtcGetProgramLogSize(program)
        log = b" " * size
        nvrtc.nvrtcGetProgramLog(program, log)
        raise FailureError(f"NVRTC cannot compile the kernels for {arch}: {one_line(log.decode(errors='replace'))}")
    _, size = nvrtc.nvrtcGetCUBINSize(program)
    cubin: bytes = b" " * size  # filled in place
    nvrtc.nvrtcGetCUBIN(program, cubin)
    nvrtc.nvrtcDestroyProgram(program)
    return cubin
