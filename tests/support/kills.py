"""Kills a command at random moments, again and again, and checks what each kill leaves.

Each function here is for `children.do`. The commands run in forks of its process, so that a kill costs no start.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch
from children import fork, wait
from shard_cases import digests, stamps
from train_cases import configuration, run

from jboost.cli import main
from jboost.engine.bundle import Bundle
from jboost.engine.results.identity import partial_folder, unfinished_run
from jboost.trainer.run import LAST
from jboost.trainer.state import load_state


def command(*arguments: object) -> None:
    torch.set_num_threads(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os._exit(main._run([str(a) for a in arguments]))


def timed(work: Callable[[], object]) -> float:
    start = time.monotonic()
    assert wait(fork(work)) == 0
    return time.monotonic() - start


def kill_again_and_again(work: Callable[[], object], count: int, seconds: float, check: Callable[[int], None]) -> None:
    """Kill `work` `count` times, after up to `seconds`; `check` sees its exit code after every try."""
    chance, kills, tries = random.Random(0), 0, 0
    while kills < count:
        child = fork(work)
        time.sleep(chance.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        code = wait(child)
        kills, tries = kills + (code == -signal.SIGKILL), tries + 1
        assert code in (0, -signal.SIGKILL), code
        check(code)
        assert tries < 3 * count, "it ends before it can be killed"
    print(f"{kills} kills in {tries} tries")


def litter(folder: Path, *known: str) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in known)


def boost(folder: Path, count: int, bundle: Path, samples: Path) -> None:
    def work(out: str, *more: str) -> Callable[[], None]:
        options = (
            "--engine",
            "eager",
            "--device",
            "cpu",
            "--steps",
            "30",
            "--no-early-stop",
            "-b",
            "2",
            "--snapshots",
            "7",
        )
        return lambda: command("boost", samples, "--bundle", bundle, *options, "-o", folder / out, *more)

    seconds = timed(work("whole.npz"))
    want = [(folder / f"whole{part}.npz").read_bytes() for part in ("", ".step7")]
    files = [folder / f"out{part}.npz" for part in ("", ".step7")]

    def check(code: int) -> None:
        for file, content in zip(files, want, strict=True):
            assert not file.exists() or file.read_bytes() == content
        if code == 0 or files[0].exists():
            assert all(file.exists() for file in files)
            for file in files:
                file.unlink()
            shutil.rmtree(partial_folder(files[0]), ignore_errors=True)
        else:
            unfinished_run(files[0])

    kill_again_and_again(work("out.npz", "--resume"), count, seconds, check)
    timed(work("out.npz", "--resume"))
    assert [file.read_bytes() for file in files] == want
    assert litter(folder) == ["out.npz", "out.step7.npz", "whole.npz", "whole.step7.npz"]


def shards(folder: Path, count: int, bundle: Path, source: Path) -> None:
    """Workers of three shares, one after another, each killed at some moment."""

    def work(out: str, share: str) -> Callable[[], None]:
        options = ("--engine", "onnx", "--device", "cpu", "--steps", "12", "--no-early-stop", "-b", "4", "--resume")
        return lambda: command("boost", source, "--bundle", bundle, *options, "-o", folder / out, "--shard", share)

    seconds = timed(work("whole", "0/1"))
    want, out = digests(folder / "whole"), folder / "out"
    chance, kills, tries, seen = random.Random(0), 0, 0, {}
    while kills < count:
        child = fork(work("out", f"{tries % 3}/3"))
        time.sleep(chance.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        code = wait(child)
        kills, tries = kills + (code == -signal.SIGKILL), tries + 1
        assert code in (0, -signal.SIGKILL), code
        now = stamps(out) if out.exists() else {}
        assert now.items() >= seen.items(), "a finished shard was touched"
        seen = now
        assert {name: digest for name, digest in want.items() if name in now} == {
            name: digest for name, digest in digests(out).items() if name in now and name in want
        }
        if now.keys() - {"run.json"} == want.keys() - {n for n in want if "/" in n} and kills < count:
            shutil.rmtree(out)  # all done: once more
            seen = {}
    for share in ("0/3", "1/3", "2/3"):
        assert timed(work("out", share)) >= 0
    assert stamps(out).items() >= seen.items()
    assert digests(out) == want  # hidden files too: there is none
    print(f"{kills} kills in {tries} tries")


def export(folder: Path, count: int, checkpoint: Path) -> None:
    def work() -> None:
        command("export", "--ckpt", checkpoint, "--format", "none", "-o", folder / "bundle")

    seconds = timed(work)

    def check(code: int) -> None:
        Bundle(folder / "bundle").check()

    kill_again_and_again(work, count, 1.1 * seconds, check)
    timed(work)
    Bundle(folder / "bundle").check()
    assert litter(folder) == ["bundle"]


def train(folder: Path, count: int) -> None:
    config = configuration(iterations=12, validate_every=4, save_every=1)
    seconds = timed(lambda: run(config, folder / "whole"))
    done = 0

    def check(code: int) -> None:
        nonlocal done
        state = load_state(folder / "run")
        now = state.iteration if state else 0
        assert now >= done
        done = now
        if done == 12:
            assert code == 0 or (folder / "run" / LAST).exists()
            same()
            shutil.rmtree(folder / "run")
            done = 0

    def same() -> None:
        assert wait(fork(lambda: run(config, folder / "run", resume=True))) == 0
        for name in (LAST, "state.safetensors"):
            assert (folder / "run" / name).read_bytes() == (folder / "whole" / name).read_bytes()

    kill_again_and_again(lambda: run(config, folder / "run", resume=True), count, seconds, check)
    same()
    assert litter(folder) == ["run", "whole"]
