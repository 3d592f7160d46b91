"""Call AOTInductor to compile a torch.export program into a package."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch
from zipfile import ZIP_STORED, ZipFile

import torch
from torch.export.passes import move_to_device_pass

from jboost.engine.backends.torch_device import set_tf32
from jboost.engine.errors import BadInputError, FailureError, first_line, one_line
from jboost.engine.system.devices import DeviceName, device_kind
from jboost.engine.system.environment import COMPILER, check_environment

from .executable_stack import without_executable_stack
from .new_process import check_in_new_process
from .without_paths import without_paths

#: The package of this process that a new process has loaded, if any.
_loads_elsewhere: list[str] = []


def check_compiler(device: str) -> None:
    """Check that Inductor can compile here, for `device`, a torch device string.

    Raises:
        BadInputError: there is no C++ compiler, or, for a GPU, there are no CUDA headers.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        compiler = get_cpp_compiler()
    except Exception as e:  # InvalidCxxCompiler, a class that torch does not export
        compiler = first_line(e)
    if shutil.which(compiler) is None:
        raise BadInputError(
            f"compiling needs a C++ compiler and finds none ({compiler}); install one, e.g.: apt-get install g++, or set CXX"
        )
    if device_kind(device) == "cuda" and _headers() is None:
        raise BadInputError(
            "compiling for a GPU needs CUDA's headers and finds none; install the CUDA toolkit, or set CUDA_HOME to the folder "
            "that has include/cuda.h"
        )


def _headers() -> Path | None:
    """Return the first folder with CUDA's headers; None if there is none."""
    return next((folder for folder in _header_folders() if (folder / "cuda.h").is_file()), None)


def _header_folders() -> list[Path]:
    """List the folders where CUDA's headers may be: where Inductor makes the C++ compiler look, then the toolkit's usual one.

    torch takes the folder above that of ``nvcc`` for the toolkit. It is wrong where ``nvcc`` is a script that calls another.
    """
    from torch.utils.cpp_extension import include_paths

    paths = [os.environ.get(name, "") for name in ("CPATH", "CPLUS_INCLUDE_PATH")]
    folders = [Path(path) for path in os.pathsep.join(paths).split(os.pathsep) if path]
    with contextlib.suppress(OSError):  # raised if there is neither a toolkit nor CUDA_HOME
        folders += map(Path, include_paths("cuda"))
    return [*folders, Path("/usr/include"), Path("/usr/local/cuda/include")]


def inductor_configs(device: str) -> dict[str, Any]:
    """Return Inductor's settings for packages that run on `device`, a torch device string."""
    # Freezing packs the weights once, at compile time, into the layout that the convolutions need.
    configs: dict[str, Any] = {"freezing": True}
    if device_kind(device) == "cuda":
        configs["max_autotune"] = True  # times kernels against each other; torch's cache keeps the results
        # The code around the kernels needs no vectors, and a package is tied to its GPU, not to the CPU beside it.
        configs["cpp.simdlen"] = 1
        if hasattr(torch._inductor.config.cpp, "march"):
            configs["cpp.march"] = ""
        if torch.__version__ < "2.13":  # a TorchVersion: compares as versions do
            # With this setting on, loops over images keep all their axes, while products have rows, until products have
            # finished fusing. So no bias, ReLU or sum is fused into the product before it. torch 2.13 tries again.
            configs["loop_ordering_after_fusion"] = False
    return configs


def _quiet(device: str) -> contextlib.AbstractContextManager[object]:
    """On a GPU, hide the table that Inductor prints for each product it tunes (dozens per network).

    Set ``TORCHINDUCTOR_MAX_AUTOTUNE_REPORT_CHOICES_STATS=1`` to see the tables.
    """
    wanted = os.environ.get("TORCHINDUCTOR_MAX_AUTOTUNE_REPORT_CHOICES_STATS") == "1"
    if wanted or device_kind(device) != "cuda":
        return contextlib.nullcontext()
    return contextlib.redirect_stderr(io.StringIO())  # torch's log messages still appear


@contextlib.contextmanager
def _toolkit(device: str) -> Iterator[None]:
    """On a GPU, let the C++ compiler find CUDA's headers, and the linker the driver's library as ``libcuda.so``.

    Packages are linked with ``-lcuda``, that is ``libcuda.so``, a name that only development packages install. Drivers
    install ``libcuda.so.1``, which programs load.
    """
    if device_kind(device) != "cuda":
        yield
        return
    torch.cuda.init()  # type: ignore[no-untyped-call]  # loads the driver's library
    driver, headers = _loaded_library("libcuda.so"), _headers()
    with TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if driver is not None:
            Path(folder, "libcuda.so").symlink_to(driver)
        stack.enter_context(_searched_too("LIBRARY_PATH", Path(folder)))
        if headers not in (None, Path("/usr/include")):  # there the compiler looks anyway
            stack.enter_context(_searched_too("CPATH", headers))
        yield


@contextlib.contextmanager
def _for_any_cpu(device: str) -> Iterator[None]:
    """On a GPU, have the code around the kernels compiled for every CPU of this kind, where torch has no setting for that.

    Without this, g++ compiles for the CPU that it runs on, and another machine with the same GPU may lack its instructions.
    """
    from torch._inductor import cpp_builder

    if device_kind(device) != "cuda" or hasattr(torch._inductor.config.cpp, "march"):  # from torch 2.13 on
        yield
        return
    flags = cpp_builder._get_optimization_cflags

    def without_march(*args: Any, **options: Any) -> tuple[list[str], list[str]]:
        compiling, linking = flags(*args, **options)
        return [flag for flag in compiling if flag != "march=native"], linking

    with patch.object(cpp_builder, "_get_optimization_cflags", without_march):
        yield


@contextlib.contextmanager
def _searched_too(variable: str, folder: Path) -> Iterator[None]:
    """Append `folder` to a search path of the environment."""
    before = os.environ.get(variable)
    os.environ[variable] = str(folder) if before is None else f"{before}:{folder}"
    try:
        yield
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


def _loaded_library(name: str) -> Path | None:
    """Return the file of a shared library in this process whose file name starts with `name`."""
    listed = Path("/proc/self/maps")  # Linux only
    maps = (line.split(maxsplit=5) for line in (listed.read_text().splitlines() if listed.exists() else ()))
    files = (Path(entry[5]) for entry in maps if len(entry) == 6)
    return next((file for file in files if file.name.startswith(name)), None)


def _numbered(device: str) -> str:
    """Return `device`, a torch device string, with its number.

    Programs assert their tensors' devices and compare them as strings.
    """
    where = DeviceName.parse(device)
    return device if where.number is not None else f"{where.kind}:{torch.cuda.current_device()}"


def compile_package(program: torch.export.ExportedProgram, path: Path, device: str) -> None:
    """Compile `program`, traced on the CPU, for this machine's `device` into the package `path`.

    Raises:
        BadInputError: the environment makes Inductor compile inexact code.
        FailureError: Inductor or the C++ compiler fails, or on a GPU a new process cannot load the package.
    """
    check_environment(COMPILER)
    if device_kind(device) == "cuda":
        set_tf32(False)  # Inductor chooses kernels by running them
        program = move_to_device_pass(program, _numbered(device))
    try:
        # Save to memory first: torch's own file writer aborts the process when the disk is full (torch 2.13).
        buffer = io.BytesIO()
        # Inductor silently skips freezing while gradients are enabled.
        with torch.no_grad(), _quiet(device), _toolkit(device), _for_any_cpu(device):
            torch._inductor.aoti_compile_and_package(
                program, package_path=buffer, inductor_configs=inductor_configs(device)
            )
    except Exception as e:  # Inductor and the C++ compiler raise their own errors
        raise FailureError(
            f"{path.name} could not be compiled ({type(e).__name__}: {_reason(e)}); see the full error with --debug"
        ) from e
    write_package(buffer, path)
    if device_kind(device) == "cuda" and not _loads_elsewhere:
        # Once a process: what breaks is the machine's doing, not the package's.
        check_in_new_process(path, device)
        _loads_elsewhere.append(path.name)


def write_package(buffer: io.BytesIO, path: Path) -> None:
    """Write a package, a zip archive, to `path`; its libraries ask for no executable stack and name no folder of here."""
    with ZipFile(buffer) as package, ZipFile(path, "w", ZIP_STORED) as written:
        for member in package.infolist():
            content = without_paths(member.filename, package.read(member))
            written.writestr(member, without_executable_stack(content) if member.filename.endswith(".so") else content)


def _reason(e: Exception) -> str:
    """Return the C++ compiler's or linker's first error, which torch puts after the command; else the first line."""
    lines = str(e).splitlines()
    said = [line for line in lines if "error: " in line or "cannot find -l" in line or "undefined reference" in line]
    # The compiler driver only says that the linker has failed; the linker has said why.
    return one_line(next((line for line in said if "collect2" not in line), next(iter(said), first_line(e))))
