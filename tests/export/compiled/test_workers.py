"""Packages that other processes compile: the same results and errors as here, and nothing left when the work is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from processes import alive, wait_until

from jboost.engine.backends.compiled.packages import load_package
from jboost.engine.errors import FailureError
from jboost.engine.system import memory
from jboost.export.bundle import export_bundle
from jboost.export.compiled import workers as module
from jboost.export.compiled.workers import Workers, worker_count


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def program(net: Net) -> torch.export.ExportedProgram:
    with torch.no_grad():
        return torch.export.export(net, (torch.rand(4, 3),))


def test_workers_compile_what_they_are_given_and_raise_what_would_be_raised_here(net, program, tmp_path) -> None:
    path, nowhere = tmp_path / "net.pt2", tmp_path / "none"
    with Workers(1) as workers:
        done = workers.compile(program, path, "cpu").result()
        x = torch.rand(4, 3)
        torch.testing.assert_close(load_package(path, "cpu")(x)[0], net(x))
        assert done.seconds > 0
        assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]  # the program is gone

        failed = workers._submit(
            "compile", "a.pt2", program=str(nowhere / "a.program.pt2"), path=str(nowhere / "a.pt2"), device="cpu"
        )
        with pytest.raises(FileNotFoundError) as missing:
            failed.result()
        assert str(missing.value.filename).endswith("a.program.pt2")
        assert "Traceback" in str(missing.value.__cause__)  # for --debug

        with pytest.raises(FailureError, match="float32"):  # what the job said, as its own kind of error
            raise module._error({"error": "FailureError", "said": "not in float32", "system": None})


def test_a_worker_that_dies_is_one_line(program, tmp_path) -> None:
    with Workers(1) as workers:
        waiting = workers.compile(program, tmp_path / "a.pt2", "cpu")
        wait_until(lambda: bool(workers._started))
        os.kill(workers._started[0].pid, signal.SIGKILL)
        with pytest.raises(FailureError, match=r"^a\.pt2 could not be compiled: .*memory") as e:
            waiting.result()
    assert "\n" not in str(e.value)


_STOPPED = """
import sys, torch
from pathlib import Path
from jboost.export.compiled.workers import Workers
with Workers(1) as workers:
    workers._submit("step", "x", update_kind="pgd-l2", batch_size=2, shape=(3, 4, 4), device="cpu")
    while not workers._started:
        pass
    print(workers._started[0].pid, flush=True)
    sys.stdin.read()
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_workers_end_with_the_process_that_started_them(how, tmp_path) -> None:
    environment = os.environ | {"JBOOST_CACHE": str(tmp_path / "cache"), "JBOOST_TRUST": str(tmp_path / "trust")}
    process = subprocess.Popen(
        [sys.executable, "-c", _STOPPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=environment,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    worker = int(process.stdout.readline())
    if how == "killed":
        process.kill()
    else:
        process.stdin.close()
    process.wait(30)
    wait_until(lambda: not alive(worker))


def test_one_worker_per_other_core_that_memory_allows(monkeypatch) -> None:
    monkeypatch.setattr(module, "usable_cores", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    small, weights = 1 << 20, 100 << 20
    for free, expected in ((None, 3), (64 << 30, 3), (8 << 30, 2), (4 << 30, 0), (0, 0)):
        monkeypatch.setattr(module, "available_memory", lambda free=free: free)
        assert worker_count(weights, "cpu") == expected, free
    monkeypatch.setattr(module, "available_memory", lambda: 64 << 30)
    assert worker_count(small, "cuda:0") == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert worker_count(small, "cpu") == 1
    monkeypatch.setattr(module, "usable_cores", lambda: 1)
    assert worker_count(small, "cpu") == 0


def test_available_memory_is_the_systems_or_a_groups(tmp_path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (groups / "a" / "b").mkdir(parents=True)
    assert memory.available_memory(proc, groups) is None
    (proc / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert memory.available_memory(proc, groups) == 5000 * 1024
    (proc / "self" / "cgroup").write_text("0::/a/b\n")
    for folder, limit in ((groups / "a", "4096000"), (groups / "a" / "b", "max")):
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text("1096000")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 1000\n")
    assert memory.available_memory(proc, groups) == 3001000


@pytest.mark.slow
def test_an_export_with_workers_holds_what_one_without_holds(checkpoint, jboost, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    out = tmp_path / "bundle"
    monkeypatch.setattr(module, "available_memory", lambda: 64 << 30)
    export_bundle(checkpoint, out, formats=("compile",), batch_size=4)
    config = json.loads((out / "config.json").read_text())
    packages = sorted(path.name for path in (out / "compile").iterdir())
    assert packages == sorted(f"cpu.{name}.16{dtype}.b4.pt2" for name, dtype in (
        ("joint", ".fp32"), ("forward", ".fp32"), ("step.pgd-l2", ""), ("step.pgd-linf", ""), ("step.sgld", ""),
    ))  # fmt: skip
    assert {a["file"] for a in config["artefacts"].values()} >= {f"compile/{name}" for name in packages}
    verified = jboost("verify", out, "--trust-code")
    assert verified.returncode == 0, verified.stderr
