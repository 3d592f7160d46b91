"""The script that measures everything on a CUDA machine, as far as it goes without one: each part alone, whatever becomes of it."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path

import pytest
from processes import alive, wait_until

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu" / "check.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("gpu_check", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def part(check, code: str, limit: float = 30.0, result: str | None = None):
    return check.Part("measure", "a part", [sys.executable, "-c", code], limit, result)


def test_a_part_that_fails_says_why(check, tmp_path) -> None:
    found = check.run(part(check, "print('before'); raise SystemExit('no such kernel')"), tmp_path, 60.0)
    assert found["status"] == "failed with exit code 1"
    assert found["tail"] == ["before", "no such kernel"]


def test_a_part_that_takes_too_long_is_ended_with_all_that_it_started(check, tmp_path) -> None:
    code = f"""
import pathlib, subprocess, sys, time
stubborn = "import signal, time; signal.signal(signal.SIGABRT, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", stubborn])
pathlib.Path({str(tmp_path / "pid")!r}).write_text(str(child.pid))
print("at work", flush=True)
time.sleep(600)
"""
    start = time.monotonic()
    found = check.run(part(check, code), tmp_path, 6.0)
    assert found["status"] == "stopped after 6 s"
    assert "at work" in found["tail"]
    assert "in <module>" in "".join(found["tail"])  # it shows where it was
    assert time.monotonic() - start < 30
    child = int((tmp_path / "pid").read_text())
    wait_until(lambda: not alive(child), seconds=10)


def test_no_part_begins_without_time(check, tmp_path) -> None:
    assert "no time left" in check.run(part(check, "print()"), tmp_path, 1.0)["status"]


def test_parts_can_be_run_again_alone(check, tmp_path, monkeypatch, capsys) -> None:
    answer = tmp_path / "one.json"
    contestant = {"name": "compile", "dtype": "fp16", "ms_per_image_step": 0.004, "ratio": 5.0}
    code = (
        f"import json, pathlib; pathlib.Path({str(answer)!r}).write_text(json.dumps({{'contestants': [{contestant}]}}))"
    )
    works = check.Part("measure", "one", [sys.executable, "-c", code], 30.0, "one.json")
    fails = check.Part("measure", "two", [sys.executable, "-c", "raise SystemExit(3)"], 30.0)
    for parts, arguments, code, statuses in (
        ([works, fails], [], 1, ["ok", "failed with exit code 3"]),
        ([works, check.Part("measure", "two", [sys.executable, "-c", ""], 30.0)], ["two"], 0, ["ok", "ok"]),
    ):
        monkeypatch.setattr(check, "parts", lambda out, parts=parts: parts)
        monkeypatch.setattr(sys, "argv", ["check.py", "--out", str(tmp_path), *arguments])
        assert check.main() == code
        page = (tmp_path / "results.md").read_text()
        assert "| compile fp16 | 0.00400 | 5.00 |" in page
        assert [f"| {name} | {status} |" in page for name, status in zip(("one", "two"), statuses, strict=True)] == [
            True
        ] * 2
    monkeypatch.setattr(sys, "argv", ["check.py", "--out", str(tmp_path), "three"])
    with pytest.raises(SystemExit):
        check.main()
    assert "no part is called three; there are: one, two" in capsys.readouterr().err


def test_what_is_run_is_there(check, tmp_path) -> None:
    every = check.parts(tmp_path)
    assert len({part.name for part in every}) == len(every)
    tests = next(part for part in every if part.name == "tests").command
    chosen = [Path(word) for word in tests if word.startswith(os.sep) and word != sys.executable]
    assert all(path.exists() for path in chosen)
    assert {"gpu", "cuda"} <= {path.parent.name for path in chosen} | {path.name for path in chosen}
