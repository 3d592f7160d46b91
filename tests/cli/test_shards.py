"""`jboost boost` over shards and `jboost merge`, as a user and a scheduler run them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import kills
import numpy as np
import pytest
from children import do, started
from processes import alive, wait_until
from shard_cases import COUNT, ENGINE, METHODS, digests, jboost_in_child, make_shards, stamps

from jboost.engine.samples import open_samples
from jboost.engine.system.locks import only_writer


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray, labels: np.ndarray) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shards")
    return {kind: make_shards(folder / kind, kind, images, labels) for kind in ("npz", "tar", "parquet")}


def boosted(tmp_path: Path, bundle: Path, source: object, out: str, *more: object, method: str = "pgd") -> None:
    ran = jboost_in_child(tmp_path, "boost", source, "--bundle", bundle, *ENGINE, *METHODS[method], "-o", out, *more)
    assert ran.code == 0, ran.said


# --- the same bytes --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["npz", "tar", "parquet"])
def test_any_split_gives_the_same_bytes(bundle, shards, tmp_path, kind, method) -> None:
    boosted(tmp_path, bundle, f"{shards[kind]}/{{00..04}}.{kind}", "whole", method=method)
    for share in ("2/3", "0/3", "1/3"):
        boosted(tmp_path, bundle, shards[kind], "parts", "--shard", share, method=method)
    want = digests(tmp_path / "whole")
    assert sorted(want) == sorted(
        [*(f"{i:02d}.{kind}" for i in range(COUNT)), *(f"records/{i:02d}.{kind}.npz" for i in range(COUNT))]
    )
    assert digests(tmp_path / "parts") == want
    # A shard is what its file gives alone, and holds the input's other members and columns.
    boosted(tmp_path, bundle, shards[kind] / f"03.{kind}", f"alone.{kind}", method=method)
    assert (tmp_path / f"alone.{kind}").read_bytes() == (tmp_path / "whole" / f"03.{kind}").read_bytes()
    before, after = open_samples(shards[kind]), open_samples(tmp_path / "whole")
    np.testing.assert_array_equal(before.labels, after.labels)
    rows = np.arange(23)
    assert (before.read(rows) != after.read(rows)).any((1, 2, 3)).sum() > 10


@pytest.mark.parametrize("method", METHODS)
def test_ranges_of_one_npz_are_the_whole(bundle, samples, tmp_path, method) -> None:
    boosted(tmp_path, bundle, samples, "one.npz", method=method)
    for share in ("1/2", "0/2"):
        boosted(tmp_path, bundle, samples, "parts", "--shard", share, "--shards", 3, method=method)
    with np.load(tmp_path / "one.npz") as one:
        parts = [np.load(tmp_path / "parts" / f"samples.0000{i}-of-00003.npz") for i in range(3)]
        for name in one.files:
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), one[name])
    boosted(tmp_path, bundle, samples, "by", "--shard", "0/2", method=method)  # as many ranges as workers
    assert (tmp_path / "by" / "samples.00000-of-00002.npz").is_file()


def test_the_summary_and_run_file_are_those_of_one_file(bundle, shards, samples, installed, jboost, tmp_path) -> None:
    boosted(tmp_path, bundle, samples, "one.npz", "--json", "one.json", "--run", "one.run.npz")
    boosted(tmp_path, bundle, f"{shards['npz']}/*.npz", "out", "--json", "many.json", "--run", "many.run.npz")
    one, many = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "many"))
    for changing in ("seconds", "images_per_second", "peak_memory"):
        del one[changing], many[changing]
    assert many == one
    with np.load(tmp_path / "one.run.npz") as a, np.load(tmp_path / "many.run.npz") as b:
        for name in set(a.files) - {"run"}:
            np.testing.assert_array_equal(a[name], b[name])
    made = installed("merge", "out", "--run", "merged.npz", "--json", "-", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["realness_after"] == one["realness_after"]
    page = jboost("report", "merged.npz", "--samples", f"{shards['npz']}/*.npz", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    refused = jboost("report", "merged.npz", cwd=tmp_path)
    assert refused.returncode == 2
    assert "outside its own folder" in refused.stderr


# --- what goes wrong -------------------------------------------------------------------------------------------------------------


def test_a_cut_off_tar_does_not_end_the_others(bundle, images, labels, jboost, tmp_path) -> None:
    make_shards(tmp_path / "in", "tar", images, labels, 10)
    whole = (tmp_path / "in" / "03.tar").read_bytes()
    (tmp_path / "in" / "03.tar").write_bytes(whole[: len(whole) // 2])
    command = ("boost", "in/{00..09}.tar", "--bundle", bundle, *ENGINE, "-o", "out")
    ran = jboost(*command, cwd=tmp_path)
    assert ran.returncode == 1
    assert [line for line in ran.stderr.splitlines() if line.startswith("03.tar: in/03.tar is truncated")]
    assert ran.stderr.splitlines()[-1].startswith("jboost: 1 of 10 shards could not be made")
    assert len(stamps(tmp_path / "out")) == 9 + 1
    merged = jboost("merge", "out", cwd=tmp_path)
    assert merged.returncode == 1
    assert "1 of 10 shards are missing in out: 03.tar; make them with" in merged.stderr
    before = stamps(tmp_path / "out")
    (tmp_path / "in" / "03.tar").write_bytes(whole)  # what the lines say
    ran = jboost(*command, "--resume", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert stamps(tmp_path / "out").items() >= before.items()
    (tmp_path / "in" / "04.tar").write_bytes(whole + bytes(512))  # another file than the one that was boosted
    refused = jboost(*command, "--resume", cwd=tmp_path)
    assert refused.returncode == 2
    assert "have the shard made again: rm out/04.tar" in refused.stderr


def _fill_the_disk() -> None:
    """A shard's file takes four bytes, then the disk is full."""
    from jboost.engine.samples import outputs

    def full(aside: Path, *rest: object, **options: object) -> None:
        aside.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    outputs._write_shard = full


def test_a_full_disk_leaves_nothing_half_written(bundle, shards, tmp_path) -> None:
    command = ("boost", shards["tar"], "--bundle", bundle, *ENGINE, "-o", "out")
    ran = jboost_in_child(tmp_path, *command, first=_fill_the_disk)
    assert ran.code == 1
    assert ran.said.count("no room for out/0") == COUNT
    assert list(stamps(tmp_path / "out")) == ["run.json"]
    assert not list((tmp_path / "out").rglob(".*"))
    ran = jboost_in_child(tmp_path, *command, "--resume")
    assert ran.code == 0, ran.said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing/*.tar", "-o", "out"], "matches no file"),
        (["tar/{00..07}.tar", "-o", "out"], "tar/05.tar does not exist: 3 of the 8"),
        (["tar/00.tar", "other/00.tar", "-o", "out"], "would both be written as 00.tar"),
        (["tar", "-o", "tar"], "is the folder of the input"),
        (["tar"], "name one: -o out/"),
        (["tar", "-o", "out.npz"], "is a file,"),
        (["tar", "-o", "new.tar"], "is a file's name, "),
        (["tar", "-o", "full"], "holds files, but no run over shards"),
        (["tar", "-o", "no/out"], "mkdir -p"),
        (["tar", "-o", "out", "--grid", "g.png"], "--grid is of one file"),
        (["tar", "-o", "out", "--shard", "0/2", "--run", "r.npz"], "jboost merge OUT --run FILE"),
        (["tar", "-o", "out", "--shard", "slurm"], "SLURM_ARRAY_TASK_ID, which is not set"),
        (["tar", "-o", "out", "--shards", "2"], "--shards cuts one npz file"),
        (["tar", "-o", "out", "--devices", "auto,cpu"], "auto is no one device"),
        (["tar", "-o", "out", "--devices", "0,0"], "twice"),
    ],
)
def test_what_is_refused_writes_nothing(bundle, shards, tmp_path, arguments, said) -> None:
    shutil.copytree(shards["tar"], tmp_path / "tar")
    shutil.copytree(shards["tar"], tmp_path / "other")
    (tmp_path / "full").mkdir()
    for file in ("full/a.txt", "out.npz"):
        (tmp_path / file).touch()
    before = sorted(tmp_path.rglob("*"))
    ran = jboost_in_child(tmp_path, "boost", *arguments, "--bundle", bundle, *ENGINE)
    assert ran.code == 2, ran.said
    assert said in ran.said
    assert ran.said.count("\n") == 1
    assert sorted(path for path in tmp_path.rglob("*") if path != tmp_path / "out") == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--steps", "3"], "update was"),
        (["--seed", "7"], "seed was 0, is 7"),
        (["-b", "3"], "batch_size was 4, is 3"),
        (["--engine", "eager"], "engine was 'onnx', is 'eager'"),
        (["--resize", "16"], "its shards were others by name, order or range"),
    ],
)
def test_another_run_is_refused_and_says_what_differs(bundle, shards, tmp_path, more, said) -> None:
    command = ("boost", shards["npz"], "--bundle", bundle, *ENGINE, "-o", "out", "--resume", "--shard", "0/5")
    assert jboost_in_child(tmp_path, *command).code == 0
    for share in ("0/5", "1/5"):  # with all done, and with something to do
        ran = jboost_in_child(tmp_path, *command[:-1], share, *more)
        assert ran.code == 2, ran.said
        assert said in ran.said
        assert "rm -r out" in ran.said
    again = jboost_in_child(tmp_path, *(word for word in command if word != "--resume"))
    assert again.code == 2
    assert "1 of 1 shards are done in out (first: 00.npz); go on with --resume" in again.said


def test_workers_obey_the_first(bundle, shards, tmp_path) -> None:
    """What the first one's 'auto' chose; its batch too."""
    command = ("boost", shards["npz"], "--bundle", bundle, "--device", "cpu", "-o", "out")
    assert jboost_in_child(tmp_path, *command, "--shard", "1/5", "--engine", "eager", "-b", 3).code == 0
    assert jboost_in_child(tmp_path, *command, "--shard", "0/5").code == 0
    facts = json.loads((tmp_path / "out" / "run.json").read_text())["run"]
    assert (facts["engine"], facts["batch_size"], facts["threads"]) == ("eager", 3, 1)
    mixed = jboost_in_child(tmp_path, *command, "--shard", "2/5", "--engine", "onnx")
    assert mixed.code == 2
    assert "engine was 'eager', is 'onnx'" in mixed.said


def test_shards_unlike_the_first_fail_alone(bundle, shards, tmp_path, images, labels) -> None:
    folder = tmp_path / "in"
    shutil.copytree(shards["npz"], folder)
    np.savez(folder / "01.npz", images=images[:3])
    np.savez(folder / "02.npz", images=images[:3], labels=labels[:3] + 90)
    ran = jboost_in_child(tmp_path, "boost", "in", "--bundle", bundle, *ENGINE, "-o", "out")
    assert ran.code == 1
    assert "01.npz: in/01.npz has no labels, but the run's first shard has some" in ran.said
    assert "02.npz: label 9" in ran.said
    assert sorted(stamps(tmp_path / "out")) == ["00.npz", "03.npz", "04.npz", "run.json"]


def test_a_shard_that_another_process_writes_is_waited_for(bundle, shards, tmp_path) -> None:
    out = tmp_path / "out"
    boosted(tmp_path, bundle, shards["npz"], "out")
    content = (out / "00.npz").read_bytes()
    (out / "00.npz").unlink()
    with only_writer(out / "00.npz"):
        command = ("boost", shards["npz"], "--bundle", bundle, *ENGINE, *METHODS["pgd"], "-o", "out", "--resume")
        running = started(*command, cwd=tmp_path)
        wait_until(lambda: "waiting: out/00.npz is being written" in running.stderr, 120)
        (out / "00.npz").write_bytes(content)
        before = stamps(out)
    assert running.wait() == 0, running.said
    assert stamps(out) == before


# --- several devices, and kills --------------------------------------------------------------------------------------------------


def test_devices_have_a_process_each(bundle, shards, jboost, tmp_path) -> None:
    boosted(tmp_path, bundle, shards["tar"], "whole", "--json", "whole.json")
    command = ("boost", shards["tar"], "--bundle", bundle, *ENGINE, *METHODS["pgd"], "-o", "out")
    ran = jboost(*command, "--devices", "cpu,cpu", "--json", "out.json", "--run", "run.npz", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "[cpu 0/2] 00.tar: " in ran.stderr
    assert "[cpu 1/2] 01.tar: " in ran.stderr
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("whole", "out"))
    assert one["realness_after"] == other["realness_after"]
    assert (tmp_path / "run.npz").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_its_processes_end_with_it(bundle, shards, tmp_path, number) -> None:
    slow = ("--steps", "30000", "--no-early-stop", "-o", "out", "--devices", "cpu,cpu")
    running = subprocess.Popen(
        [Path(sys.executable).with_name("jboost"), "boost", shards["tar"], "--bundle", bundle, *map(str, ENGINE), *slow],
        cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip

    def children() -> list[int]:
        found = Path(f"/proc/{running.pid}/task/{running.pid}/children")
        return [int(pid) for pid in found.read_text().split()] if found.exists() else []

    wait_until(lambda: len(children()) == 2)
    mine = children()
    wait_until(lambda: (tmp_path / "out" / "run.json").exists())
    time.sleep(0.2)
    running.send_signal(number)
    assert running.wait(30) == (128 + number if number != signal.SIGKILL else -number)
    wait_until(lambda: not any(alive(pid) for pid in mine if Path(f"/proc/{pid}").exists()))


def test_killed_workers_go_on(bundle, shards, tmp_path) -> None:
    _kills(2, bundle, shards["tar"], tmp_path)


@pytest.mark.slow
def test_workers_killed_twenty_times(bundle, shards, tmp_path) -> None:
    _kills(20, bundle, shards["tar"], tmp_path)


def _kills(count: int, bundle: Path, source: Path, tmp_path: Path) -> None:
    assert f"{count} kills" in do(kills.shards, tmp_path, count, bundle, source, seconds=600)
