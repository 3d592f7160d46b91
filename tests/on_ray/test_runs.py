"""`jboost boost --on ray` on a cluster of this machine: the same bytes as one process, whatever dies."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import format_cases
import numpy as np
import pytest
from processes import alive, wait_until

pytest.importorskip("ray.data", reason='pip install "jboost[ray]"')
pytestmark = pytest.mark.slow

from jboost.on_ray.cluster import descendants  # noqa: E402

ROOT = Path(__file__).parent.parent.parent
MAKERS = {"npz": format_cases.npz, "tar": format_cases.shard, "parquet": format_cases.parquet}
METHODS = {"pgd": ("--steps", 12), "sgld": ("--update", "sgld", "--steps", 5, "--noise", 0.02)}


def make_shards(folder: Path, kind: str, images: np.ndarray, labels: np.ndarray, count: int = 5) -> Path:
    folder.mkdir()
    for i, part in enumerate(np.array_split(np.arange(len(images)), count)):
        MAKERS[kind](folder, images[part], labels[part]).rename(folder / f"{i:02d}.{kind}")
    return folder


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of each file of a run but for the times of `run.json`, hidden files too."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.name != "run.json"]
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def options(bundle) -> tuple[object, ...]:
    return ("--bundle", bundle, "--engine", "onnx", "--device", "cpu", "-b", 4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", MAKERS)
def test_the_bytes_are_those_of_one_process(kind, method, jboost, options, images, labels, tmp_path) -> None:
    shards = make_shards(tmp_path / "in", kind, images, labels)
    found = {}
    for name, more in {
        "plain": (),
        "one": ("--on", "ray", "--workers", 1),
        "three": ("--on", "ray", "--workers", 3),
    }.items():
        done = jboost("boost", shards, "-o", tmp_path / name, *options, *METHODS[method], *more)
        assert done.returncode == 0, done.stderr
        found[name] = digests(tmp_path / name)
    assert len(found["plain"]) == 10  # outputs and records
    assert found["one"] == found["plain"]
    assert found["three"] == found["plain"]
    assert re.search(r"04\.\w+: \d images, .* images/s \(\d of 5\)", done.stderr)
    assert "Ray: 3 worker(s) with 1 thread(s), engine onnx" in done.stderr
    strange = [line for line in done.stderr.splitlines() if not re.match(r"0\d\.\w+: |Ray: |\S+ has no labels", line)]
    assert strange == []


def test_a_cut_off_shard_is_one_line_and_the_others_are_made(jboost, options, images, labels, tmp_path) -> None:
    shards = make_shards(tmp_path / "in", "tar", images, labels, 10)
    content = (shards / "04.tar").read_bytes()
    (shards / "04.tar").write_bytes(content[: len(content) // 2])
    command = ("boost", shards, "-o", tmp_path / "out", *options, "--steps", 2, "--on", "ray", "--workers", 2)
    done = jboost(*command)
    assert done.returncode == 1, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("04.tar: ")]) == 1
    assert "1 of 10 shards could not be made" in done.stderr.splitlines()[-1]
    assert len(list((tmp_path / "out").glob("0?.tar"))) == 9
    assert list((tmp_path / "out").rglob(".*")) == []


def test_ctrl_c_ends_everything_and_leaves_nothing_hidden(options, images, labels, tmp_path) -> None:
    shards = make_shards(tmp_path / "in", "npz", np.tile(images, (10, 1, 1, 1)), np.tile(labels, 10))
    slow = ("--steps", 200, "--no-early-stop", "--on", "ray", "--workers", 2)
    command = [str(Path(sys.executable).with_name("jboost")), "boost", shards, "-o", tmp_path / "out", *options, *slow]
    log = tmp_path / "log"
    before = set(Path("/tmp").glob("jboost-ray-*"))
    with log.open("wb") as stderr:
        run = subprocess.Popen(
            list(map(str, command)), stdout=stderr, stderr=stderr, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True
        )  # fmt: skip
        wait_until(lambda: b"images/s" in log.read_bytes() or run.poll() is not None, 120)
        below = descendants(run.pid)
        assert len(below) > 3
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130, log.read_text()
    assert "--resume" in log.read_text().splitlines()[-1]
    assert [process for process in below if alive(process)] == []
    assert list((tmp_path / "out").rglob(".*")) == []
    assert set(Path("/tmp").glob("jboost-ray-*")) <= before


def test_killed_workers_and_drivers_cost_no_byte(bundle, tmp_path) -> None:
    script = [
        sys.executable,
        ROOT / "benchmarks" / "on_ray.py",
        "kills",
        bundle,
        tmp_path / "work",
        "--count",
        3,
        "--images",
        60,
    ]
    done = subprocess.run(list(map(str, script)), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].startswith("3 kills: the same bytes")
