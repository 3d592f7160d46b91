"""The C library's allocator, this process's peak memory and the memory that is free."""

from __future__ import annotations

import ctypes
import gc
import sys
from functools import cache
from pathlib import Path

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_LARGEST = 32 << 20  # glibc accepts no larger threshold


@cache
def keep_freed_memory() -> None:
    """Make glibc keep freed memory: a loop frees and allocates the same buffers at every step.

    By default large buffers go back to the system, which clears their pages again at the next step. Measured on a
    ResNet-50 at 64 px, batch 32: this costs 8,160 page faults per step of the compiled graph and 8% of its time.
    Without glibc the function does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version") and hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        libc.mallopt(_M_TOP_PAD, 2 * _LARGEST)


def give_back_memory() -> None:
    """Return freed memory to the system; without glibc collect garbage alone."""
    gc.collect()
    if sys.platform.startswith("linux") and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def peak_memory() -> int | None:
    """This process's peak memory so far in bytes; None if the system does not report it."""
    try:
        # Not getrusage first: on Linux a process inherits the peak of the process that started it.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def available_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that processes may still use here: the system's free memory, or less where a control group (a container) has a limit.

    None if the system reports neither.
    """
    free = []
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        free += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    except (OSError, ValueError, IndexError):
        pass
    try:
        entries = [line.split(":", 2) for line in (proc / "self/cgroup").read_text().splitlines()]
        own = next((entry[2].strip("/") for entry in entries if entry[0] == "0"), "")
    except (OSError, IndexError):
        own = ""
    # A limit of any group above holds too. Inside a container its own group may be the root.
    for folder in (groups / own, *(parent for parent in (groups / own).parents if groups in (parent, *parent.parents))):
        try:
            limit, used = (int((folder / name).read_text()) for name in ("memory.max", "memory.current"))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # no such group, or its limit is "max"
            continue
        free.append(max(limit - used + int(stat.get("inactive_file", 0)), 0))  # files' pages are given up first
    return min(free, default=None)


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of Python, torch or ONNX Runtime says that this machine has no memory left."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(
        words in said for words in ("can't allocate memory", "bad_alloc", "bad allocation", "cannot allocate memory")
    )
