"""The CUDA kernels by name. The source, `kernels.cu`, documents each kernel and its arguments."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from jboost.engine.errors import BadInputError

#: Threads per block. The number fixes the order of the sums, so the result's last bits depend on it.
THREADS = 512

ADMIT, COLLECT, TO_FLOAT = "jboost_admit", "jboost_collect", "jboost_to_float"

#: Compiler options for nvcc and NVRTC; host compilers spell the first one differently. `kernels.cu` says why fused
#: multiply-add is off.
OPTIONS = ("--fmad=false", "--std=c++17")


def step_kernel(update_kind: str) -> str:
    """The name of the step kernel for an update kind.

    Raises:
        BadInputError: `kernels.cu` has no such kernel.
    """
    name = f"jboost_step_{update_kind.replace('-', '_')}"
    if f" {name}(" not in source():
        raise BadInputError(
            f"the update {update_kind} has no CUDA kernel, and this engine needs one on a GPU; use --engine compile or eager"
        )
    return name


@cache
def source() -> str:
    """The text of `kernels.cu`."""
    return files(__package__).joinpath("kernels.cu").read_text()
