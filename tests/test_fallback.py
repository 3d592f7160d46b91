"""`--engine auto` goes on with the next engine where one fails to open, and says so; a failed load leaves nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import jboost as api
from jboost.engine.backends.compiled.packages import load_package
from jboost.engine.backends.onnx.engine import OnnxEngine
from jboost.engine.backends.registry import ENGINES
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.system import unpacking
from jboost.export.compiled.steps import step_package


@pytest.fixture
def onnx_first(bundle, tmp_path) -> Path:
    """A bundle whose best known time is that of onnx."""
    copy = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    config = Bundle(copy).config
    timings = tuple(replace(t, ms=1e-6) if t.engine == "onnx" else t for t in config.timings)
    assert {t.engine for t in timings} == {"onnx", "eager"}
    (copy / "config.json").write_text(replace(config, timings=timings).to_json())
    return copy


def broken(*_: object) -> None:
    raise RuntimeError("libonnx.so: no kernel image is available")


def test_the_fastest_known_engine_that_fails_is_passed_over(onnx_first, images, labels, monkeypatch, caplog) -> None:
    update = api.PGD(1, 0.1)
    with api.load(onnx_first, device="cpu") as b:
        assert b.boost(images, labels, update).summary.engine == "onnx"
    monkeypatch.setattr(OnnxEngine, "open", broken)
    with api.load(onnx_first, device="cpu") as b:
        got = b.boost(images, labels, update)
        assert b.boost(images, labels, update).summary.engines_failed == got.summary.engines_failed
    assert got.summary.engine == "eager"
    assert got.summary.engines_failed == {"onnx": "RuntimeError: libonnx.so: no kernel image is available"}
    assert "not onnx, which failed: RuntimeError: libonnx.so" in caplog.text
    with api.load(onnx_first, engine="eager", device="cpu") as b:
        np.testing.assert_array_equal(got.images, b.boost(images, labels, update).images)


def test_an_engine_without_a_step_for_the_update_is_passed_over(onnx_first, images, labels, monkeypatch) -> None:
    def refuse(runner: object, update_kind: str) -> None:
        if update_kind == "sgld":
            raise BadInputError("no kernel for sgld")

    monkeypatch.setattr("jboost.engine.backends.onnx.cpu.OnnxRunner.check_update", refuse)
    with api.load(onnx_first, device="cpu") as b:
        assert b.boost(images, labels, api.PGD(1, 0.1)).summary.engine == "onnx"
        other = b.boost(images, labels, api.SGLD(1, 0.1)).summary
        assert (other.engine, other.engines_failed) == ("eager", {"onnx": "no kernel for sgld"})
        assert b.boost(images, labels, api.PGD(1, 0.1)).summary.engine == "onnx"


@pytest.mark.parametrize("known", [True, False], ids=["times known", "trial"])
def test_all_engines_failing_is_an_error_that_names_each(onnx_first, images, labels, monkeypatch, known) -> None:
    if not known:
        config = Bundle(onnx_first).config
        (onnx_first / "config.json").write_text(replace(config, timings=()).to_json())
    for name in ("onnx", "eager"):
        monkeypatch.setattr(type(ENGINES[name]), "open", broken)
    with (
        api.load(onnx_first, device="cpu") as b,
        pytest.raises(BadInputError, match=r"not eager, which.*not onnx, which|not onnx.*not eager"),
    ):
        b.boost(images, labels, api.PGD(1, 0.1))


def test_the_command_says_what_failed_and_what_ran(onnx_first, samples, jboost, tmp_path) -> None:
    # The graph is whole by its hash, and no ONNX Runtime can read it.
    graph = next(onnx_first.glob("gradient*.onnx"))
    config = Bundle(onnx_first).config
    graph.write_bytes(b"no graph at all")

    def rehashed(artefact):
        return (
            replace(artefact, sha256=hashlib.sha256(graph.read_bytes()).hexdigest())
            if artefact.file == graph.name
            else artefact
        )

    artefacts = {name: rehashed(artefact) for name, artefact in config.artefacts.items()}
    (onnx_first / "config.json").write_text(replace(config, artefacts=artefacts).to_json())
    run = tmp_path / "run.npz"
    done = jboost("boost", samples, "--bundle", onnx_first, "--steps", 1, "--json", "-", "--run", run, "--trust-code")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["engine"] == "eager"
    assert list(summary["engines_failed"]) == ["onnx"]
    assert "not onnx, which failed" in done.stderr
    assert "instead of onnx" in done.stderr
    assert jboost("report", run, "-o", tmp_path / "page.html").returncode == 0


# --- what is unpacked ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package() -> Path:
    """A small compiled package, from the cache if another test has made it."""
    return step_package("pgd-l2", 4, (3, 16, 16), "cpu", say=lambda: None)[0]


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_a_package_leaves_nothing_unpacked_whether_it_loads_or_not(package, temporary, tmp_path) -> None:
    load_package(package, "cpu")
    assert list(temporary.iterdir()) == []
    content = package.read_bytes()
    damaged = tmp_path / "damaged.pt2"
    # A library that the loader unpacks and cannot load.
    damaged.write_bytes(content.replace(b"\x7fELF", b"\x7fELG"))
    for path in (damaged, tmp_path / "missing.pt2"):
        with pytest.raises(BadInputError, match="export the bundle again"):
            load_package(path, "cpu")
        assert list(temporary.iterdir()) == []
    assert os.environ["TMPDIR"] == str(temporary)


def test_what_a_killed_process_left_is_removed_by_the_next_and_a_living_ones_is_not(package, temporary) -> None:
    code = (
        "import time; from jboost.engine.system.unpacking import unpacking\n"
        "with unpacking(keep=False):\n print(1, flush=True)\n time.sleep(99)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)
        (left,) = temporary.iterdir()
        os.utime(left, (time.time() - 60,) * 2)
        load_package(package, "cpu")
        assert list(temporary.iterdir()) == [left]
        process.send_signal(signal.SIGKILL)
    load_package(package, "cpu")
    assert list(temporary.iterdir()) == []


def remedy(message: str) -> str:
    """The command after the last colon."""
    return message.rpartition(": ")[2]


def test_a_full_temporary_folder_is_named_and_the_remedy_helps(package, temporary, tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def loader(*_: object) -> None:
        raise RuntimeError("Failed to extract zip file, mz_zip error string: write callback failed")

    with monkeypatch.context() as patch:
        patch.setattr(unpacking.os, "posix_fallocate", full)
        patch.setattr("torch._C._aoti.AOTIModelPackageLoader", loader)
        with pytest.raises(BadInputError, match=rf"{temporary} has no room for \d MiB") as caught:
            load_package(package, "cpu")
    assert "export" not in remedy(str(caught.value)).replace("export TMPDIR", "")
    line = f"{remedy(str(caught.value))} && {sys.executable} -c 'import tempfile; print(tempfile.gettempdir())'"
    done = subprocess.run(["sh", "-c", line], env=os.environ | {"HOME": str(tmp_path)}, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / "jboost-tmp"), done.stderr


def test_a_folder_that_forbids_programs_is_named(package, temporary, monkeypatch) -> None:
    def loader(*_: object) -> None:
        raise RuntimeError("Error in dlopen: failed to map segment from shared object")

    real = os.statvfs(temporary)
    noexec = os.statvfs_result((*real[:8], real.f_flag | os.ST_NOEXEC, *real[9:]))
    monkeypatch.setattr("torch._C._aoti.AOTIModelPackageLoader", loader)
    monkeypatch.setattr(unpacking.os, "statvfs", lambda path: noexec)
    with pytest.raises(BadInputError, match=rf"{temporary} does not let programs run .it is mounted noexec.*TMPDIR"):
        load_package(package, "cpu")
    monkeypatch.setattr(unpacking.os, "statvfs", lambda path: real)
    with pytest.raises(BadInputError, match="export the bundle again"):  # it is not the folder's fault
        load_package(package, "cpu")


def test_a_limit_on_files_is_named(package, temporary) -> None:
    code = f"from jboost.engine.backends.compiled.packages import load_package; load_package({str(package)!r}, 'cpu')"
    done = subprocess.run(
        ["sh", "-c", f'ulimit -f 8; exec {sys.executable} -c "{code}"'], capture_output=True, text=True
    )
    assert re.search(r"no file may grow to \d MiB here; raise the limit: ulimit -f unlimited$", done.stderr.strip()), (
        done.stderr
    )
    assert list(temporary.iterdir()) == []


def test_missing_memory_is_not_blamed_on_the_bundle(package, monkeypatch) -> None:
    def loader(*_: object) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr("torch._C._aoti.AOTIModelPackageLoader", loader)
    with pytest.raises(FailureError, match="no memory"):
        load_package(package, "cpu")
