"""Ctrl-C, SIGTERM, a second writer and a damaged partial result, as a user meets them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from children import started
from PIL import Image
from processes import wait_until

import jboost
from jboost.cli.interrupts import Interrupted, how_to_go_on, interruptible
from jboost.engine.loop.run import Progress
from jboost.engine.results import partial
from jboost.engine.results.summary import Summary
from jboost.engine.samples import open_samples
from jboost.export.bundle import export_bundle

SLOW = ("--engine", "eager", "--steps", "40", "--no-early-stop", "-b", "2", "--device", "cpu")


def start(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("jboost")), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs with SIGINT ignored, and so would be what the tests start there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def any_done(folder: Path) -> bool:
    records = folder / "records.bin"
    return records.exists() and any(records.read_bytes())


@contextmanager
def under_way(*arguments: object, cwd: Path, out: str = "out.npz") -> Iterator[subprocess.Popen[str]]:
    """The installed command, once it has finished an image."""
    running = start(*arguments, cwd=cwd)
    try:
        wait_until(lambda: running.poll() is not None or any_done(cwd / f"{out}.partial"), 120)
        assert running.poll() is None, running.communicate()
        yield running
    finally:
        running.kill()
        running.communicate(timeout=60)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_how_to_go_on_and_that_works(number, code, jboost, bundle, samples, tmp_path) -> None:
    command = ["boost", "samples.npz", "--bundle", bundle, *SLOW]
    with under_way(*command, "-o", "out.npz", cwd=tmp_path) as running:
        running.send_signal(number)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == code
    line = errors.splitlines()[-1]
    assert line.startswith("jboost: interrupted; go on with: jboost boost --resume samples.npz ")
    assert "Traceback" not in errors
    assert partial_done(tmp_path / "out.npz.partial") > 0
    typed = line.partition("go on with: jboost ")[2]
    again = jboost(*typed.split(), "--json", "s.json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "s.json").read_text())["redone"] == 0
    assert jboost(*command, "-o", "whole.npz", cwd=tmp_path).returncode == 0
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def partial_done(folder: Path) -> int:
    return int(np.fromfile(folder / "records.bin", partial.STORED)["done"].sum())


def test_what_to_type_after_an_interruption(monkeypatch) -> None:
    assert how_to_go_on(["boost", "my set", "-o", "a.npz"]) == "go on with: jboost boost --resume 'my set' -o a.npz"
    assert how_to_go_on(["train", "--resume"]) == "go on with: jboost train --resume"
    assert how_to_go_on(["export"]) == "nothing is left half-written; run the command again"
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert how_to_go_on(["train"]) == "go on with the same command and --resume"


def test_signals_are_raised_as_interruptions_and_an_ignored_one_stays_ignored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted) as raised, interruptible():
        signal.raise_signal(signal.SIGTERM)
    assert raised.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, ignored)


# --- two writers -----------------------------------------------------------------------------------------------------------------


def test_a_second_run_into_an_output_is_told_to_wait_and_not_to_resume_or_remove(bundle, samples, tmp_path) -> None:
    command = ["boost", "samples.npz", "--bundle", bundle, *SLOW, "-o", "out.npz"]
    with under_way(*command, cwd=tmp_path) as running:
        for second in [started(*command, *more, cwd=tmp_path) for more in ([], ["--resume"])]:
            assert second.wait() == 2, second.said
            line = second.stderr.splitlines()[-1]
            assert re.fullmatch(
                rf"jboost: out.npz is being written by process {running.pid} since \S+ \S+; wait for it, or name another -o",
                line,
            )
        running.kill()
    # Two resumes at once: one goes on, the other is refused.
    found = ended(*command, "--resume", cwd=tmp_path)
    assert sorted(code for _, code in found) == [0, 2], found
    assert sum("is being written by process" in errors for errors, _ in found) == 1, found
    assert started(*command[:-1], "whole.npz", cwd=tmp_path).wait() == 0
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "samples.npz", "whole.npz"]


def ended(*command: object, cwd: Path) -> list[tuple[str, int]]:
    """What two commands at the same time say on stderr, and their exit codes."""
    both = [started(*command, cwd=cwd) for _ in range(2)]
    codes = [one.wait() for one in both]
    return [(one.stderr, code) for one, code in zip(both, codes, strict=True)]


def test_of_two_exports_to_one_bundle_the_second_is_refused(checkpoint, tmp_path) -> None:
    command = ["export", "--ckpt", checkpoint, "--format", "none", "-o", "bundle"]
    found = ended(*command, cwd=tmp_path)
    assert 0 in [code for _, code in found], found
    for errors, code in found:
        if code:
            assert code == 2
            assert "bundle is being written by process" in errors
            assert "rm -r" not in errors
    assert started("inspect", "bundle", cwd=tmp_path).wait() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


# --- what an unfinished run belongs to -------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def boost(bundle: Path, samples: Path, out: Path, *, resume: bool = False, dies: bool = False) -> Summary:
    """A run in this process, which may die on the way."""

    def stop(now: Progress) -> None:
        if dies and now.finished > 8:
            raise Killed

    with jboost.load(bundle, engine="eager", device="cpu", batch_size=4) as booster:
        settings = booster.settings(jboost.PGD(4, 0.1), early_stop=False)
        return booster.boost_file(open_samples(samples), out, settings, resume=resume, snapshots=(2,), on_progress=stop)


def test_a_run_of_another_bundle_is_not_resumed(checkpoint, bundle, samples, tmp_path) -> None:
    """The same checkpoint, exported again with another normalisation."""
    copy, out = Path(shutil.copytree(bundle, tmp_path / "bundle")), tmp_path / "out.npz"
    with pytest.raises(Killed):
        boost(copy, samples, out, dies=True)
    export_bundle(checkpoint, copy, normalization="0.4,0.4,0.4/0.6,0.6,0.6", formats=())
    with pytest.raises(jboost.BadInputError) as raised:
        boost(copy, samples, out, resume=True)
    assert "its bundle was another one, or this one before it was exported again" in str(raised.value)
    assert str(raised.value).endswith(f"leave out --resume and name another -o, or remove it: rm -r {out}.partial")
    # All three remedies work.
    boost(copy, samples, tmp_path / "other.npz")
    shutil.copytree(f"{out}.partial", f"{tmp_path}/old.npz.partial")
    shutil.rmtree(f"{out}.partial")
    boost(copy, samples, out, resume=True)
    assert out.read_bytes() == (tmp_path / "other.npz").read_bytes()
    boost(bundle, samples, tmp_path / "old.npz", resume=True)
    assert (tmp_path / "old.npz").read_bytes() != out.read_bytes()


@pytest.mark.parametrize("kind", ["folder", "zip", "npz"])
def test_a_run_of_another_input_is_not_resumed(bundle, images, tmp_path, kind) -> None:
    """Files of the same names, sizes and times with other contents."""

    def write(images: np.ndarray) -> Path:
        path = tmp_path / ("set" if kind == "folder" else f"set.{kind}")
        if kind == "npz":
            np.savez(path, images)
            return path
        folder = tmp_path / "set"
        folder.mkdir(exist_ok=True)
        for i, image in enumerate(images):
            Image.fromarray(image).save(folder / f"{i:02d}.png", compress_level=0)  # all of one size
            os.utime(folder / f"{i:02d}.png", (1e9, 1e9))
        if kind == "zip":
            with zipfile.ZipFile(path, "w") as archive:
                for file in sorted(folder.iterdir()):
                    archive.write(file, file.name)
        return path

    path, out = write(images), tmp_path / "out.npz"
    before, size = open_samples(path).fingerprint, path.stat().st_size
    with pytest.raises(Killed):
        boost(bundle, path, out, dies=True)
    write(255 - images)
    assert path.stat().st_size == size
    assert open_samples(path).fingerprint != before
    with pytest.raises(jboost.BadInputError, match="its input's contents were others"):
        boost(bundle, path, out, resume=True)
    write(images)
    assert open_samples(path).fingerprint == before  # a copy, made later, is the same input
    boost(bundle, path, out, resume=True)


def test_a_damaged_result_is_done_again_and_counted(jboost, bundle, samples, tmp_path) -> None:
    out = tmp_path / "out.npz"
    boost(bundle, samples, tmp_path / "whole.npz")
    with pytest.raises(Killed):
        boost(bundle, samples, out, dies=True)
    for file in ("images.u8", "step2/images.u8"):
        with (tmp_path / "out.npz.partial" / file).open("r+b") as f:
            f.write(bytes(2 * 16 * 16 * 3))
    command = ["boost", "samples.npz", "--bundle", bundle, "--engine", "eager", "--device", "cpu", "-o", "out.npz"]
    command += ["--steps", "4", "--step-size", "0.1", "--no-early-stop", "--snapshots", "2", "-b", "4"]
    again = jboost(*command, "--resume", "--json", "s.json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "s.json").read_text())["redone"] == 2
    assert re.search(r"done again +2 \(what the interrupted run left of them was damaged\)", again.stdout)
    for name in ("", ".step2"):
        assert (tmp_path / f"out{name}.npz").read_bytes() == (tmp_path / f"whole{name}.npz").read_bytes()
