"""Kinds of machines: results on another kind may differ by a grey level."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from jboost.engine.errors import BadInputError

#: Flags of x86 and Arm by which libraries choose their kernels; how a chip calls itself does not matter.
_INSTRUCTIONS = (
    "avx", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_bf16", "amx_int8", "amx_fp16", "asimd", "asimddp", "sve", "sve2", "bf16", "i8mm",
)  # fmt: skip


def cpu_kind(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """This machine's instruction sets, such as ``"x86_64 avx fma avx2"``."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    found = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    flags = set(found.partition(":")[2].split())
    return " ".join([platform.machine(), *(name for name in _INSTRUCTIONS if name in flags)])


def machine_kind(*, gpu: bool) -> str:
    """This machine's kind: the name of the GPU that this process sees, or the CPU's instruction sets.

    Args:
        gpu: whether the work is done on a GPU.
    """
    if gpu:
        from jboost.engine.system.gpu import find_driver

        found = sorted({device.name for device in find_driver().gpus})
        return " and ".join(found) or "no GPU"
    return cpu_kind()


def check_kinds(kinds: Mapping[str, str]) -> None:
    """Check that machines are of one kind.

    Args:
        kinds: the kind of each machine, by its name.

    Raises:
        BadInputError: they are not; the message says how two of them differ.
    """
    first = next(iter(kinds), None)
    other = next((name for name, kind in kinds.items() if first is not None and kind != kinds[first]), None)
    if first is None or other is None:
        return
    here, there = kinds[first], kinds[other]
    mine, its = here.split(), there.split()
    if mine[0] == its[0] and not {"NVIDIA", "Tesla"} & {mine[0], its[0]}:
        only = [
            f"{name} has {' '.join(extra)}"
            for name, extra in ((first, _less(mine, its)), (other, _less(its, mine)))
            if extra
        ]
        said = "; ".join(f"only {text}" for text in only)
    else:
        said = f"{first} has {here}; {other} has {there}"
    raise BadInputError(
        f"the cluster's machines are of several kinds ({said}), so the results would depend on which one makes a shard; use "
        "machines of one kind, or allow it: --allow-mixed"
    )


def _less(one: list[str], other: list[str]) -> list[str]:
    return [word for word in one if word not in other]
