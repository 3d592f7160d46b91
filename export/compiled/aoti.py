"""Calling AOTInductor: a torch.export program in, a package out."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from jboost.engine.backends.torch_device import set_tf32
from jboost.engine.errors import BadInputError, FailureError, first_line, one_line
from jboost.engine.system.devices import DeviceName, device_kind


def check_compiler(device: str) -> None:
    """Check that Inductor can compile here, for `device`, a torch device string.

    Raises:
        BadInputError: there is no C++ compiler, or for a GPU no headers of CUDA.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        compiler = get_cpp_compiler()
    except Exception as e:  # InvalidCxxCompiler, which torch does not export
        compiler = first_line(e)
    if shutil.which(compiler) is None:
        raise BadInputError(
            f"compiling needs a C++ compiler and finds none ({compiler}); install one, e.g.: apt-get install g++, or set CXX"
        )
    if device_kind(device) == "cuda" and not any((folder / "cuda.h").is_file() for folder in _header_folders()):
        raise BadInputError(
            "compiling for a GPU needs CUDA's headers and finds none; install the CUDA toolkit, or set CUDA_HOME to the folder "
            "that has include/cuda.h"
        )


def _header_folders() -> list[Path]:
    """Where Inductor has the C++ compiler look for CUDA's headers."""
    from torch.utils.cpp_extension import include_paths

    paths = [os.environ.get(name, "") for name in ("CPATH", "CPLUS_INCLUDE_PATH")]
    folders = [Path(path) for path in os.pathsep.join(paths).split(os.pathsep) if path]
    with contextlib.suppress(OSError):  # without a toolkit and CUDA_HOME
        folders += map(Path, include_paths("cuda"))
    return [*folders, Path("/usr/include")]


def inductor_configs(device: str) -> dict[str, Any]:
    """What Inductor is told, for packages that run on `device`, a torch device string."""
    # Packs the weights into the layout that the convolutions want, once, at compile time.
    configs: dict[str, Any] = {"freezing": True}
    if device_kind(device) == "cuda":
        configs["max_autotune"] = True  # measures kernels against each other; what it learns is kept in torch's cache
        if torch.__version__ < "2.13":  # a TorchVersion: compares as versions do
            # With it on, loops over images keep all their axes until products, which have rows, are done with looking for what to
            # take along: no bias, ReLU or sum becomes part of the product before it. torch 2.13 looks again.
            configs["loop_ordering_after_fusion"] = False
    return configs


def _quiet(device: str) -> contextlib.AbstractContextManager[object]:
    """On a GPU without the table that Inductor prints for each product that it tunes, dozens a network, unless torch is told to."""
    wanted = os.environ.get("TORCHINDUCTOR_MAX_AUTOTUNE_REPORT_CHOICES_STATS") == "1"
    if wanted or device_kind(device) != "cuda":
        return contextlib.nullcontext()
    return contextlib.redirect_stderr(io.StringIO())  # what torch logs, it logs all the same


@contextlib.contextmanager
def _linkable_driver(device: str) -> Iterator[None]:
    """On a GPU, let the linker find the driver's library under the name it asks for, which only developers' packages give it.

    Programs load ``libcuda.so.1``; packages are linked with ``-lcuda``, that is ``libcuda.so``.
    """
    if device_kind(device) != "cuda":
        yield
        return
    torch.cuda.init()  # type: ignore[no-untyped-call]  # loads it
    driver = _loaded_library("libcuda.so")
    before = os.environ.get("LIBRARY_PATH")
    with TemporaryDirectory() as folder:
        if driver is not None:
            Path(folder, "libcuda.so").symlink_to(driver)
        os.environ["LIBRARY_PATH"] = folder if before is None else f"{before}:{folder}"
        try:
            yield
        finally:
            if before is None:
                del os.environ["LIBRARY_PATH"]
            else:
                os.environ["LIBRARY_PATH"] = before


def _loaded_library(name: str) -> Path | None:
    """The file of a shared library of this process whose name begins so."""
    listed = Path("/proc/self/maps")  # of Linux alone
    maps = (line.split(maxsplit=5) for line in (listed.read_text().splitlines() if listed.exists() else ()))
    files = (Path(entry[5]) for entry in maps if len(entry) == 6)
    return next((file for file in files if file.name.startswith(name)), None)


def _numbered(device: str) -> str:
    """`device`, a torch device string, with its number: programs assert their tensors' devices, and are compared to the letter."""
    where = DeviceName.parse(device)
    return device if where.number is not None else f"{where.kind}:{torch.cuda.current_device()}"


def compile_package(program: torch.export.ExportedProgram, path: Path, device: str) -> None:
    """Compile `program`, which was traced on the CPU, for this machine's `device` into the package `path`.

    Raises:
        FailureError: Inductor or the C++ compiler fails.
    """
    if device_kind(device) == "cuda":
        set_tf32(False)  # kernels are chosen by trying them
        program = move_to_device_pass(program, _numbered(device))
    try:
        # Through memory: torch's own writer ends the whole process when the disk is full (torch 2.13).
        buffer = io.BytesIO()
        # Inductor passes over freezing silently while gradients are enabled.
        with torch.no_grad(), _quiet(device), _linkable_driver(device):
            torch._inductor.aoti_compile_and_package(
                program, package_path=buffer, inductor_configs=inductor_configs(device)
            )
    except Exception as e:  # Inductor and the C++ compiler raise their own
        raise FailureError(
            f"{path.name} could not be compiled ({type(e).__name__}: {_reason(e)}); see it with --debug"
        ) from e
    path.write_bytes(buffer.getbuffer())


def _reason(e: Exception) -> str:
    """The first thing that a C++ compiler or linker says was wrong, which torch puts behind its command; else the first line."""
    said = (line for line in str(e).splitlines() if "error: " in line or "cannot find -l" in line)
    return one_line(next(said, first_line(e)))
