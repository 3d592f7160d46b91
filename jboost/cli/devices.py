"""``jboost boost --devices``: a process per device, each with its share of the shards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from . import options
from .terminal import print_line

if TYPE_CHECKING:
    from jboost.engine.shards.plan import Plan
    from jboost.engine.shards.share import Share

#: Options of the whole command that its processes get in another form, or not at all.
_OWN = ("--devices", "--device", "--shard", "--shards", "--json", "--run")
_COMMAND = "from jboost.cli.main import main; main()"
_POLL = 0.1  # seconds
_PATIENCE = 20.0  # seconds for processes to end in order
_DIE_WITH_PARENT = 1  # Linux's PR_SET_PDEATHSIG


def find_devices(text: str | None) -> list[str]:
    """The devices that ``--devices`` names: ``all``, or numbers and names with commas; empty without it.

    Raises:
        BadInputError: it names none, one twice (but for the CPU), or there is no GPU.
    """
    if text is None:
        return []
    from jboost.engine.errors import BadInputError, printable
    from jboost.engine.system.devices import DeviceName

    if text == "all":
        from jboost.engine.system.gpu import find_driver

        driver = find_driver()
        if not driver.gpus:
            raise BadInputError(f"--devices all: {driver.problem}; name devices, such as --devices cpu,cpu")
        return [f"cuda:{i}" for i in range(len(driver.gpus))]
    names = [f"cuda:{part}" if part.isdecimal() else part for part in text.split(",")]
    for name in names:
        if DeviceName.parse(name).kind == "auto" or name == "cuda":
            raise BadInputError(f"--devices {printable(text[:60])}: {name} is no one device; give all, 0,1 or cpu,cpu")
        if name != "cpu" and names.count(name) > 1:
            raise BadInputError(f"--devices {printable(text[:60])} names {name} twice; name each GPU once")
    if len({DeviceName.parse(name).kind for name in names}) > 1:
        raise BadInputError(
            f"--devices {printable(text[:60])} mixes GPUs and the CPU, whose results differ; name one kind"
        )
    return names


def boost_on_devices(places: list[str], share: Share, out: Path, plan: Plan) -> None:
    """Run this command once per device; ends all of them when it is interrupted.

    The first process settles the run (engine, batch), then the others start.

    Args:
        places: the devices' names.
        share: this command's share, which the processes split.
        out: the run's folder.
        plan: the run's shards.

    Raises:
        FailureError: a process failed; its lines say why.
    """
    from jboost.engine.errors import FailureError
    from jboost.engine.samples.patterns import RUN

    ranges = ["--shards", str(len(plan.shards))] if plan.shards and plan.shards[0].first is not None else []
    started: list[subprocess.Popen[bytes]] = []
    readers: list[threading.Thread] = []
    try:
        for i, place in enumerate(places):
            part = share.split(i, len(places))
            more = [*ranges, "--device", place, "--shard", str(part)]
            process = subprocess.Popen(
                [sys.executable, "-c", _COMMAND, *_without_own(options.arguments), *more],
                env=os.environ | {"OMP_NUM_THREADS": str(_threads(len(places)))},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=_end_with_parent,
            )  # fmt: skip
            started.append(process)
            assert process.stdout is not None
            readers.append(threading.Thread(target=_forward, args=(f"{place} {part}", process.stdout), daemon=True))
            readers[-1].start()
            while i == 0 and process.poll() is None and not (out / RUN).exists():
                time.sleep(_POLL)
            if i == 0 and not (out / RUN).exists() and process.returncode == 2:
                break  # the others would say the same
        codes = [process.wait() for process in started]
    except BaseException:
        _end(started)
        raise
    finally:
        for reader in readers:
            reader.join(_PATIENCE)
    failed = [f"{place} (exit code {code})" for place, code in zip(places, codes, strict=False) if code]
    if failed:
        raise FailureError(
            f"{', '.join(failed)} failed, see the lines above; mend that, and go on with the same command and --resume"
        )


def _without_own(arguments: list[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in arguments:
        if skip:
            skip = False
        elif word in _OWN:
            skip = True
        elif not word.startswith(tuple(f"{option}=" for option in _OWN)):
            kept.append(word)
    return kept


def _threads(processes: int) -> int:
    from jboost.engine.system.environment import thread_count

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max((thread_count() or cores) // processes, 1)


def _forward(name: str, lines: IO[bytes]) -> None:
    for line in lines:
        print_line(f"[{name}] {line.decode(errors='backslashreplace').rstrip()}", stderr=True)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """End the processes: in order if they can, else at once."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """Have the system end this process when its parent is killed, so that none goes on unseen."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
