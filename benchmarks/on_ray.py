"""What `jboost boost --on ray` costs and survives, on this machine.

    python benchmarks/on_ray.py cost BUNDLE FOLDER     CPU seconds an image: two Ray workers against a plain process
    python benchmarks/on_ray.py kills BUNDLE FOLDER [--count 20]     kill -9 of workers, driver and both at random moments

BUNDLE is a bundle that `jboost export` wrote. FOLDER is new; shards of random images and the runs go there. Start-up is left out
of the cost: each figure is the slope between a short and a long run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from jboost.engine.bundle import Bundle
from jboost.on_ray.cluster import descendants

METHOD = ("--engine", "eager", "--device", "cpu", "--update", "sgld", "--noise", "0.01", "--no-early-stop")
RAY = ("--on", "ray", "--workers", "2")
TICK = os.sysconf("SC_CLK_TCK")


def make_shards(folder: Path, bundle: Path, shards: int, images: int) -> Path:
    config = Bundle(bundle).config
    folder.mkdir(parents=True)
    size, rng = config.resolutions[0], np.random.default_rng(0)
    for i in range(shards):
        x = rng.integers(0, 256, (images, size, size, config.in_channels), np.uint8)
        np.savez(folder / f"{i:03d}.npz", x, np.arange(images) % config.num_classes)
    return folder


def start(bundle: Path, shards: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [Path(sys.executable).with_name("jboost"), "boost", shards, "-o", out, "--bundle", bundle, *METHOD, *more]
    with (out.parent / f"{out.name}.log").open("ab") as log:
        # A session of its own: a terminal's Ctrl-C reaches this script alone.
        return subprocess.Popen(
            list(map(str, command)),
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def spent(process: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def cpu_seconds(run: subprocess.Popen[bytes]) -> float:
    """CPU seconds of a command and of all that it started, until it ends."""
    seen: dict[int, float] = {}
    while run.poll() is None:
        for process in (run.pid, *descendants(run.pid)):
            with suppress(OSError, IndexError):  # it has just ended
                seen[process] = spent(process)
        time.sleep(0.05)
    assert run.returncode == 0, run.returncode
    return sum(seen.values())


def cost(bundle: Path, folder: Path, images: int, steps: int) -> float:
    """The ratio of CPU seconds an image, Ray's to the plain process's: medians of three alternating pairs."""
    counts = (2, 10)
    inputs = [make_shards(folder / f"in{count}", bundle, count, images) for count in counts]
    ratios = []
    for turn in range(3):
        figures = {}
        for name, options in (("plain", ()), ("ray", RAY)):
            used = [
                cpu_seconds(start(bundle, shards, folder / f"{name}{turn}-{count}", "--steps", str(steps), *options))
                for shards, count in zip(inputs, counts, strict=True)
            ]
            figures[name] = (used[1] - used[0]) / ((counts[1] - counts[0]) * images)
        ratios.append(figures["ray"] / figures["plain"])
        print(", ".join(f"{name} {1000 * value:.2f} ms" for name, value in figures.items()), f"ratio {ratios[-1]:.3f}")
    return float(np.median(ratios))


def state(out: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.glob("*.npz")}


def digest(out: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(out.glob("*.npz")))).hexdigest()


def workers(driver: int) -> list[int]:
    found = []
    for process in descendants(driver):
        with suppress(OSError, IndexError):
            if Path(f"/proc/{process}/cmdline").read_bytes().startswith(b"ray::") and spent(process) > 0:
                found.append(process)
    return found


def alive(process: int) -> bool:
    """Whether a process lives. Ray's two agents do not count: after a killed driver they end within two minutes."""
    try:
        if b"Agent" in Path(f"/proc/{process}/cmdline").read_bytes():
            return False
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(*processes: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def kills(bundle: Path, folder: Path, count: int, images: int, steps: int, seed: int) -> None:
    """Kill until `count` kills have struck; every run that was killed goes on, and its bytes are the plain process's."""
    chance = random.Random(seed)
    more = ("--steps", str(steps))
    shards = make_shards(folder / "in", bundle, 6, images)
    plain = start(bundle, shards, folder / "plain", *more)
    assert plain.wait() == 0
    begun = time.monotonic()
    whole = start(bundle, shards, folder / "whole", *more, *RAY)
    assert whole.wait() == 0
    seconds, want, struck, out = time.monotonic() - begun, digest(folder / "plain"), 0, folder / "out"
    assert digest(folder / "whole") == want
    before: dict[str, tuple[int, int]] = {}
    while struck < count:
        run = start(bundle, shards, out, *more, *RAY, "--resume")
        started: set[int] = set()
        until = time.monotonic() + chance.uniform(0.3, 1.0) * seconds
        while run.poll() is None and time.monotonic() < until:
            started |= set(descendants(run.pid))
            time.sleep(0.1)
        what = ("worker", "driver", "both")[struck % 3]
        victims = workers(run.pid)[-1:] if what != "driver" else []
        if run.poll() is None and (victims or what == "driver"):
            kill(*victims, *([run.pid] if what != "worker" else []))
            struck += 1
        code = run.wait()
        assert code in (0, -signal.SIGKILL), (what, code)
        deadline = time.monotonic() + 60
        while any(map(alive, started)):
            assert time.monotonic() < deadline, f"processes are left: {[p for p in started if alive(p)]}"
            time.sleep(0.1)
        now = state(out) if out.exists() else {}
        assert all(now.get(name) == facts for name, facts in before.items()), "a finished shard was touched"
        print(f"{struck} kills, {what} last: exit code {code}, {len(now)} of 6 shards done", flush=True)
        before = now
        if code == 0:
            check_whole(out, want)
            shutil.rmtree(out)
            before = {}
    if out.exists():
        assert start(bundle, shards, out, *more, *RAY, "--resume").wait() == 0
        assert all(state(out)[name] == facts for name, facts in before.items()), "a finished shard was touched"
        check_whole(out, want)
    print(f"{struck} kills: the same bytes, no finished shard touched, no hidden file, no process left")


def check_whole(out: Path, want: str) -> None:
    assert digest(out) == want
    hidden = [path.name for path in out.rglob(".*")]
    assert not hidden, hidden


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "kills"))
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--images", type=int, default=120)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.folder.mkdir(parents=True)
    if given.what == "cost":
        ratio = cost(given.bundle, given.folder, given.images, given.steps)
        print(f"CPU seconds an image under Ray: {ratio:.3f} x plain")
    else:
        kills(given.bundle, given.folder, given.count, given.images, given.steps, given.seed)


if __name__ == "__main__":
    main()
