"""Calling AOTInductor: a torch.export program in, a package out."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch.export.passes import move_to_device_pass

from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.program import first_line
from jboost.engine.torch_device import set_tf32


def check_compiler() -> None:
    """Check that Inductor can compile here.

    Raises:
        BadInputError: there is no C++ compiler.
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


def inductor_configs(device: str) -> dict[str, Any]:
    """What Inductor is told, for packages that run on `device`, a torch device string."""
    # Packs the weights into the layout that the convolutions want, once, at compile time.
    configs: dict[str, Any] = {"freezing": True}
    if torch.device(device).type == "cuda":
        configs["max_autotune"] = True  # measures kernels against each other; what it learns is kept in torch's cache
        if torch.__version__ < "2.13":  # a TorchVersion: compares as versions do
            # With it on, loops over images keep all their axes until products, which have rows, are done with looking for what to
            # take along: no bias, ReLU or sum becomes part of the product before it. torch 2.13 looks again.
            configs["loop_ordering_after_fusion"] = False
    return configs


def _quiet(device: str) -> contextlib.AbstractContextManager[object]:
    """On a GPU without the table that Inductor prints for each product that it tunes, dozens a network, unless torch is told to."""
    wanted = os.environ.get("TORCHINDUCTOR_MAX_AUTOTUNE_REPORT_CHOICES_STATS") == "1"
    if wanted or torch.device(device).type != "cuda":
        return contextlib.nullcontext()
    return contextlib.redirect_stderr(io.StringIO())  # what torch logs, it logs all the same


def compile_package(program: torch.export.ExportedProgram, path: Path, device: str) -> None:
    """Compile `program`, which was traced on the CPU, for this machine's `device` into the package `path`.

    Raises:
        FailureError: Inductor or the C++ compiler fails.
    """
    if torch.device(device).type == "cuda":
        set_tf32(False)  # kernels are chosen by trying them
        program = move_to_device_pass(program, device)
    try:
        # Through memory: torch's own writer ends the whole process when the disk is full (torch 2.13).
        buffer = io.BytesIO()
        # Inductor passes over freezing silently while gradients are enabled.
        with torch.no_grad(), _quiet(device):
            torch._inductor.aoti_compile_and_package(
                program, package_path=buffer, inductor_configs=inductor_configs(device)
            )
    except Exception as e:  # Inductor and the C++ compiler raise their own
        raise FailureError(
            f"{path.name} could not be compiled ({type(e).__name__}: {first_line(e)}); see it with --debug"
        ) from e
    path.write_bytes(buffer.getbuffer())
