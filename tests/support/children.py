"""Child processes of a process without threads: for commands, for what tests kill, and for what forks.

A fork has the memory of a process but none of its threads. Where that process has used ONNX Runtime or torch, the fork may wait
forever for a thread that it does not have: Python's garbage collector destroys a session in the fork, and that waits for the
session's threads. So no test forks pytest's process. The standard library's forkserver imports what commands need, computes
nothing, has no threads, and forks children that start at once.
"""

from __future__ import annotations

import atexit
import faulthandler
import functools
import gc
import importlib.util
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType
from typing import Any

#: Seconds that a child may take.
SECONDS = 240.0
#: What the server imports. None of it starts a thread; pyarrow does, so children import it themselves.
PRELOADED = (
    "accelerate",
    "array_api_compat.torch",
    "jboost.booster",
    "jboost.cli.main",
    "jboost.cli.progress",
    "jboost.engine.backends.compiled.runner",
    "jboost.engine.backends.eager.runner",
    "jboost.engine.backends.onnx.cpu",
    "jboost.evaluation",
    "jboost.export.bundle",
    "jboost.export.write",
    "jboost.report",
    "jboost.trainer.run",
    "onnx.reference",
    "onnxruntime",
    "onnxscript",
    "pydantic",
    "pytest",
    "rich.progress",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "torch.export._trace",
    "torch.onnx._internal.exporter._core",
)
_SUPPORT = Path(__file__).resolve().parent


@contextmanager
def _variables(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ |= values
    try:
        yield
    finally:
        os.environ.clear()
        os.environ |= before


@functools.cache
def _server() -> multiprocessing.context.ForkServerContext:
    """The server of this process, started by its first child."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    # Libraries start their threads when they are imported: OpenBLAS one for each core, ONNX Runtime one that sends statistics.
    with _variables(OMP_NUM_THREADS="1", ORT_DISABLE_TELEMETRY="1"):
        forkserver.ensure_running()
    return context


class Child:
    """A process that does a function of a test file or of a module in tests/support.

    Attributes:
        pid: its process id.
    """

    def __init__(self, work: Callable[..., object], *arguments: Any, environment: Mapping[str, str] | None = None):
        """Start it.

        Args:
            work: a function at the top level of its file; what it returns is lost.
            arguments: its arguments, which are pickled.
            environment: its environment variables; None: this process's.
        """
        self._name, self._folder = work.__qualname__, tempfile.TemporaryDirectory(prefix="child-")
        place = (work.__code__.co_filename, work.__qualname__)
        streams = [f"{self._folder.name}/{name}" for name in ("stdout", "stderr")]
        values = dict(os.environ if environment is None else environment)
        self._process = _server().Process(target=_work, args=(place, arguments, values, streams), daemon=True)
        self._process.start()
        self.pid = self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Kill it as the system does."""
        self._process.kill()

    def wait(self, seconds: float = SECONDS) -> int:
        """Its exit code, negative for a signal.

        Raises:
            AssertionError: it did not end in time. It is killed, and the message has what it printed and where it was.
        """
        self._process.join(seconds)
        if self._process.is_alive():
            os.kill(self.pid, signal.SIGQUIT)  # prints the stacks of all its threads
            time.sleep(0.5)
            self._process.kill()
            self._process.join(10)
            raise AssertionError(f"{self._name} did not end in {seconds:g} s; killed\n{self.said}")
        assert self._process.exitcode is not None
        return self._process.exitcode

    @property
    def stdout(self) -> str:
        """What it printed, so far."""
        return self._printed("stdout")

    @property
    def stderr(self) -> str:
        """What it printed to stderr, so far."""
        return self._printed("stderr")

    @property
    def said(self) -> str:
        """Both."""
        return self.stdout + self.stderr

    def _printed(self, name: str) -> str:
        path = Path(self._folder.name, name)
        return path.read_text(errors="replace") if path.exists() else ""


def do(work: Callable[..., object], *arguments: Any, seconds: float = SECONDS) -> str:
    """Do `work` in a child, as `Child` takes it; the child may fork. What it printed; fails if the work does, and prints that."""
    child = Child(work, *arguments)
    code = child.wait(seconds)
    assert code == 0, f"{work.__qualname__} ended with {code}\n{child.said}"
    return child.stdout


def together(*started: Child, seconds: float = SECONDS) -> None:
    """Wait for children that work together. The first that fails ends them all, and the test, with what each printed."""
    end = time.monotonic() + seconds
    running = list(started)
    while running and time.monotonic() < end and all(child.running or child.wait() == 0 for child in running):
        running = [child for child in running if child.running]
        time.sleep(0.01)
    for child in running:
        child.kill()
    codes = [child.wait() for child in started]
    assert not any(codes), f"ended with {codes}\n" + "\n".join(child.said for child in started)


def jboost(
    *arguments: object,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    first: Callable[..., object] | None = None,
    seconds: float = SECONDS,
) -> subprocess.CompletedProcess[str]:
    """The command ``jboost ARGUMENTS`` in a child: as the installed command runs, but nothing has to be imported.

    Args:
        arguments: the words of the command.
        cwd: where it runs; None: here.
        environment: its environment variables; None: this process's. Both with one thread, wide lines and no colours.
        first: a function that is called before the command, in its process.
        seconds: that it may take.
    """
    child = started(*arguments, cwd=cwd, environment=environment, first=first)
    code = child.wait(seconds)
    return subprocess.CompletedProcess(["jboost", *map(str, arguments)], code, child.stdout, child.stderr)


def started(
    *arguments: object,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    first: Callable[..., object] | None = None,
) -> Child:
    """The command as `jboost` runs it, started."""
    values = {**(os.environ if environment is None else environment), **PLAIN}
    place = first and (first.__code__.co_filename, first.__qualname__)
    return Child(command, [str(argument) for argument in arguments], str(cwd or Path.cwd()), place, environment=values)


#: Environment variables of commands: small operators on shared cores run many times faster on one thread than on two that wait
#: for each other.
PLAIN = {"COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}


# --- in the child ----------------------------------------------------------------------------------------------------------------


def _work(place: tuple[str, str], arguments: tuple[Any, ...], environment: dict[str, str], streams: list[str]) -> None:
    gc.freeze()  # what the server imported stays; the collector need not look at it
    os.environ.clear()
    os.environ |= environment
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (it lasts as long as the process)
    sys.stderr = open(2, "w", closefd=False, errors="backslashreplace", buffering=1)  # noqa: SIM115
    faulthandler.register(signal.SIGQUIT, file=2, all_threads=True)
    _function(place)(*arguments)


def _function(place: tuple[str, str]) -> Callable[..., object]:
    file, name = place
    path = Path(file).resolve()
    known = path.stem if path.parent == _SUPPORT else f"child_of_{path.stem}"
    found: object = sys.modules.get(known) or _loaded(known, path)
    for part in name.split("."):
        found = getattr(found, part)
    assert callable(found)
    return found


def _loaded(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def command(words: list[str], folder: str, first: tuple[str, str] | None = None) -> None:
    """Turn this process into ``jboost WORDS`` in a folder, once the function at `first` has been called."""
    os.chdir(folder)
    # The installed command finds nothing of the tests, and what PYTHONPATH names.
    own = {Path(path).resolve() for path in ("", multiprocessing.process.ORIGINAL_DIR, _SUPPORT)}
    named = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if first:
        _function(first)()
    sys.path[:] = named + [path for path in sys.path if Path(path).resolve() not in own]
    sys.argv = ["jboost", *words]
    from jboost.cli.main import main

    try:
        main(words)
    finally:
        atexit._run_exitfuncs()  # a child of multiprocessing does not


# --- forks -----------------------------------------------------------------------------------------------------------------------


def threads() -> int:
    """How many threads this process has."""
    return len(os.listdir("/proc/self/task"))


def fork(work: Callable[[], object], patience: float = 5.0) -> int:
    """The id of a fork that does `work`, and ends with 1 if it raises.

    For processes of one thread, such as a `Child` or a script that imports and computes nothing: see the top of this file.
    """
    end = time.monotonic() + patience
    while threads() > 1:  # a thread that was joined takes a moment to go
        assert time.monotonic() < end, "a process with threads must not fork; do the work in a Child"
        time.sleep(0.001)
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException as error:  # whatever it is must not reach the parent's code
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def wait(child: int, seconds: float = SECONDS) -> int:
    """A fork's exit code, negative for a signal. One that does not end in time is killed, and the test fails."""
    handle = os.pidfd_open(child)
    ended, _, _ = select.select([handle], [], [], seconds)
    os.close(handle)
    if not ended:
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended, f"process {child} did not end in {seconds:g} s; killed"
    return code
