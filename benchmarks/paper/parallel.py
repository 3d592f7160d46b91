"""Several steps at a time, each in a process of its own: networks this small keep one core busy and no second one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

from steps import Runner

_runner: Runner
_busy = False


def run_parallel(runner: Runner, prepare: Callable[[], Runner], jobs: int, only: Iterable[str] = ()) -> None:
    """Do what is not done yet, `jobs` steps at a time, each once the steps it needs are done.

    Args:
        runner: of all steps.
        prepare: makes the same runner in another process; can be pickled.
        jobs: processes; the cores are shared evenly among them.
        only: see `Runner.chosen`.

    Raises:
        SystemExit, Exception: what a step raised; the others that were under way are ended.
    """
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    waiting = {step.name: step for step in runner.chosen(only) if runner.record(step.name) is None}
    count, started = len(waiting), 0
    running: dict[Future[float], str] = {}
    spawn = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_begin, initargs=(prepare,)) as pool:
        try:
            while waiting or running:
                unfinished = waiting.keys() | set(running.values())
                ready = [step for step in waiting.values() if unfinished.isdisjoint(step.needs)]
                for step in ready[: jobs - len(running)]:
                    del waiting[step.name]
                    started += 1
                    left = step.seconds + sum(other.seconds for other in waiting.values())
                    runner.say(f"[{started}/{count}, about {left / jobs / 60:.0f} min left] {step.name}")
                    running[pool.submit(_do, step.name)] = step.name
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    runner.say(f"{future.result():9.1f} s  {running.pop(future)}")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


class _Ended(BaseException):
    """This process is to end."""


def _begin(prepare: Callable[[], Runner]) -> None:
    global _runner
    signal.signal(signal.SIGTERM, _end)
    threading.Thread(target=_follow, daemon=True).start()
    _runner = prepare()


def _end(*_: object) -> None:
    if _busy:  # an exception first: what started a command ends it then
        raise _Ended
    os._exit(128 + signal.SIGTERM)


def _follow() -> None:
    """End when the process that sends the steps ends, however it does: another run may take its place."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _do(name: str) -> float:
    global _busy
    _busy = True
    try:
        return _runner.do(_runner.steps[name])
    except _Ended:  # not to the pool, which would keep the process and wait for more
        os._exit(128 + signal.SIGTERM)
    finally:
        _busy = False
