"""The CUDA kernels by name; the source is `kernels.cu`, which says what each does and what it takes."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from jboost.engine.errors import BadInputError

#: Threads of every block. Part of the result's last bits: it fixes the order of the sums.
THREADS = 512

ADMIT, COLLECT, TO_FLOAT = "jboost_admit", "jboost_collect", "jboost_to_float"

#: For nvcc, NVRTC and (with another spelling of the first) host compilers; `kernels.cu` says why no fused multiply-add.
OPTIONS = ("--fmad=false", "--std=c++17")


def step_kernel(update_kind: str) -> str:
    """The kernel of a step of a kind of update.

    Raises:
        BadInputError: `kernels.cu` has none.
    """
    name = f"jboost_step_{update_kind.replace('-', '_')}"
    if f" {name}(" not in source():
        raise BadInputError(
            f"the update {update_kind} has no CUDA kernel, which this engine needs on a GPU; use --engine compile or eager"
        )
    return name


@cache
def source() -> str:
    """The text of `kernels.cu`."""
    return files(__package__).joinpath("kernels.cu").read_text()
