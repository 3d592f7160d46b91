"""A Ray cluster for one run: connected to, or started on this machine and stopped at the end."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from jboost.engine.errors import BadInputError, FailureError, one_line
from jboost.engine.system.machine import usable_cores

#: Objects are shards' names; this is the least that Ray takes.
_OBJECT_STORE = 80 << 20
_PATIENCE = 5.0  # seconds in which the processes of a cluster end by themselves
_LONGEST = 38  # of a folder in which Ray makes sockets, whose paths have at most 107 bytes
_PREFIX = "jboost-ray-"


def load_ray(*, local: bool) -> Any:
    """The module ``ray`` with Ray Data.

    Args:
        local: whether a cluster of this machine alone will be started.

    Raises:
        BadInputError: it is not installed.
    """
    # Ray reads these when it is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if local:
        # This machine may be busy, and take longer to start a node than the 30 s that Ray allows.
        os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
        # Else Ray writes a token to the user's home, which clusters that were started without one refuse.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
        import ray.data
    except ImportError as e:
        raise BadInputError(
            f'--on ray needs Ray Data, which is not installed ({one_line(e)}); install it: pip install "jboost[ray]"'
        ) from e
    return ray


@contextmanager
def cluster(ray: Any, address: str | None, *, cpus: int) -> Iterator[None]:
    """Be connected to a cluster while the block lasts.

    Args:
        ray: the module.
        address: of a cluster's head, ``"auto"`` or ``"host:port"``; None: a cluster of this machine alone, which ends with the
            block and leaves nothing.
        cpus: processors that a cluster of this machine has at least.

    Raises:
        FailureError: there is no such cluster, or it does not start.
    """
    temporary = _temporary_folder() if address is None else None
    before = set(descendants(os.getpid()))
    with _signals_kept():
        try:
            _connect(ray, address, temporary, cpus)
            _hush()
            context = ray.data.DataContext.get_current()
            context.enable_progress_bars = False
            yield
        finally:
            started = set(descendants(os.getpid())) - before
            with suppress(Exception):  # a cluster that is gone
                ray.shutdown()
            _wait_for_end(started)
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)


def _connect(ray: Any, address: str | None, temporary: Path | None, cpus: int) -> None:
    if address is not None:
        _check_reachable(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        options |= {
            "num_cpus": max(cpus, usable_cores()),
            "object_store_memory": _OBJECT_STORE,
            "include_dashboard": False,
            "_temp_dir": str(temporary),
        }
    try:
        ray.init(address=address or "local", **options)
    except Exception as e:
        if address is None:
            raise FailureError(f"Ray does not start on this machine: {one_line(e)}") from e
        hint = (
            " (it may have no token, but this machine has one: RAY_AUTH_MODE=disabled)"
            if "token" in str(e).lower()
            else ""
        )
        raise FailureError(
            f"--address {address}: no connection to a Ray cluster ({one_line(e)}){hint}; start one with: ray start --head"
        ) from e


def _check_reachable(address: str) -> None:
    """Notice in seconds what Ray would try for minutes.

    Raises:
        FailureError: nothing listens at ``HOST:PORT``.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return  # auto, which Ray finds
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except (OSError, OverflowError) as e:
        raise FailureError(
            f"--address {address}: nothing answers there ({one_line(e)}); give the address that `ray start --head` printed, "
            "or start a cluster"
        ) from e


def descendants(process: int) -> list[int]:
    """The processes below a process; none where the system does not list them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):  # it has just ended
            parent = int(entry.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry.parent.name))
    found, ahead = [], [process]
    while ahead:
        below = children.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


def _wait_for_end(processes: set[int]) -> None:
    """Wait until processes have ended; end those that do not."""
    deadline = monotonic() + _PATIENCE
    while left := [process for process in processes if _runs(process)]:
        if monotonic() > deadline:
            for process in left:
                with suppress(OSError):
                    os.kill(process, signal.SIGKILL)
            return
        sleep(0.05)


def _runs(process: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def _temporary_folder() -> Path:
    """A folder for Ray's sockets and logs. Those of killed runs are removed."""
    base = tempfile.gettempdir()
    if len(base) > _LONGEST - len(_PREFIX) - 16:
        base = "/tmp"
    for left in Path(base).glob(f"{_PREFIX}*-*"):
        with suppress(OSError, ValueError):
            if left.stat().st_uid == os.getuid() and not _lives(int(left.name.removeprefix(_PREFIX).partition("-")[0])):
                shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Take back the signals that Ray handles from its start on: the command has handlers of its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    set_sigterm, set_signal = None, signal.signal
    with suppress(ImportError):
        import ray._private.utils as utils

        set_sigterm, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        if set_sigterm is not None:
            utils.set_sigterm_handler = set_sigterm
        for number, handler in kept.items():
            if handler is not None and signal.getsignal(number) is not handler:
                set_signal(number, handler)


def _hush() -> None:
    """Keep Ray's messages off the terminal; its own files have them, and errors come as exceptions."""
    for name in ("ray", "ray.data"):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                handler.setLevel(logging.CRITICAL + 1)
