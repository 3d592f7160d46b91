"""The CUDA kernels by name; the source is `kernels.cu`, which says what each does and what it takes."""

from __future__ import annotations

from importlib.resources import files

#: Threads of every block. Part of the result's last bits: it fixes the order of the sums.
THREADS = 512

#: Kind of update -> the kernel of its step.
STEP = {"pgd-l2": "jboost_step_pgd_l2", "pgd-linf": "jboost_step_pgd_linf", "sgld": "jboost_step_sgld"}
ADMIT, COLLECT, TO_FLOAT = "jboost_admit", "jboost_collect", "jboost_to_float"

#: For nvcc, NVRTC and (with another spelling of the first) host compilers; `kernels.cu` says why no fused multiply-add.
OPTIONS = ("--fmad=false", "--std=c++17")


def source() -> str:
    """The text of `kernels.cu`."""
    return files(__package__).joinpath("kernels.cu").read_text()
