"""A command's inputs and outputs may not destroy each other, and nothing that blocks is opened."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest

from jboost.cli.paths import check_paths
from jboost.engine.errors import BadInputError
from jboost.engine.samples.encode import encode
from jboost.trainer.data.real import open_real

FAST = ("--bundle", "bundle", "--engine", "eager", "--steps", "1")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, checkpoint, bundle, images, labels) -> Path:
    root = tmp_path_factory.mktemp("paths")
    shutil.copytree(bundle, root / "bundle")
    shutil.copyfile(checkpoint, root / "joint.safetensors")
    np.savez(root / "samples.npz", images, labels)
    (root / "set").mkdir()
    for i in range(4):
        (root / "set" / f"{i}.png").write_bytes(encode(images[i]))
    (root / "link.npz").symlink_to("samples.npz")
    os.link(root / "samples.npz", root / "hard.npz")
    (root / "link").symlink_to("set")
    os.mkfifo(root / "fifo")
    os.mkfifo(root / "fifo.npz")
    with socket.socket(socket.AF_UNIX) as s:
        here = os.getcwd()
        os.chdir(root)  # a socket's path is short
        s.bind("sock")
        os.chdir(here)
    return root


CLASHES = {
    "json is the output": (("boost", "samples.npz", *FAST, "-o", "o.npz", "--json", "o.npz"), "--json", "-o"),
    "json is the default output": (
        ("boost", "samples.npz", *FAST, "--json", "samples.boosted.npz"), "--json", "-o",
    ),
    "json is the input": (("boost", "samples.npz", *FAST, "--json", "samples.npz"), "--json", "SAMPLES"),
    "json is the input by another name": (("boost", "samples.npz", *FAST, "--json", "./set/../samples.npz"), "--json", "SAMPLES"),
    "json is the input by a link": (("boost", "samples.npz", *FAST, "--json", "link.npz"), "--json", "SAMPLES"),
    "json is the input by inode": (("boost", "samples.npz", *FAST, "--json", "hard.npz"), "--json", "SAMPLES"),
    "grid is the output": (("boost", "samples.npz", *FAST, "-o", "o.npz", "--grid", "o.npz"), "--grid", "-o"),
    "grid is the input": (("boost", "samples.npz", *FAST, "--grid", "samples.npz"), "--grid", "SAMPLES"),
    "run is json": (("boost", "samples.npz", *FAST, "--run", "a", "--json", "a"), "--json", "--run"),
    "run is the grid": (("boost", "samples.npz", *FAST, "--run", "a", "--grid", "./a"), "--grid", "--run"),
    "output is a link to the input": (("boost", "samples.npz", *FAST, "-o", "link.npz"), "-o", "SAMPLES"),
    "grid in the input": (("boost", "set", *FAST, "--grid", "set/a.png"), "--grid", "SAMPLES"),
    "grid in the input by a link": (("boost", "set", *FAST, "--grid", "link/a.png"), "--grid", "SAMPLES"),
    "grid in the output": (("boost", "set", *FAST, "-o", "out", "--grid", "out/a.png"), "--grid", "-o"),
    "json is in the bundle": (("boost", "set", *FAST, "--json", "bundle/config.json"), "--json", "--bundle"),
    "output is the bundle": (("boost", "set", *FAST, "-o", "bundle"), "-o", "--bundle"),
    "json is a snapshot": (
        ("boost", "samples.npz", *FAST, "-o", "o.npz", "--snapshots", "1", "--json", "o.step1.npz"), "--json", "--snapshots 1",
    ),
    "run is in the partial results": (
        ("boost", "samples.npz", *FAST, "-o", "o.npz", "--run", "o.npz.partial/a"), "--run", "the partial results",
    ),
    "bundle is the checkpoint": (("export", "--ckpt", "joint.safetensors", "-o", "joint.safetensors"), "-o", "--ckpt"),
    "bundle holds the checkpoint": (("export", "--ckpt", "bundle/model.safetensors", "-o", "bundle"), "-o", "--ckpt"),
    "bundle holds the real images": (
        ("export", "--ckpt", "joint.safetensors", "--real", "set", "-o", "set"), "-o", "--real",
    ),
    "run folder is the data": (("train", "--real", "set", "--generated", "samples.npz", "-o", "set"), "-o", "--real"),
    "run folder is in the data": (("train", "--real", "set", "--generated", "samples.npz", "-o", "set/r"), "-o", "--real"),
    "features are the reference": (("eval", "samples.npz", "set", "--save-features", "samples.npz"), "--save-features", "REF"),
    "json is a set": (("eval", "set", "set", "samples.npz", "--json", "samples.npz"), "--json", "SAMPLES 2"),
    "plot is json": (("bench", "--bundle", "bundle", "--plot", "a", "--json", "a"), "--json", "--plot"),
    "plot is in the bundle": (("bench", "--bundle", "bundle", "--plot", "bundle/forward.pt2"), "--plot", "--bundle"),
    "page is the run": (("report", "samples.npz", "-o", "samples.npz"), "-o", "RUN"),
}  # fmt: skip


def listing(root: Path) -> list[tuple[str, int, int]]:
    stats = [(str(p), p.lstat()) for p in sorted(root.rglob("*"))]
    return [(name, s.st_size, s.st_mtime_ns) for name, s in stats]


@pytest.mark.parametrize("case", CLASHES)
def test_paths_that_would_destroy_each_other_are_refused_in_one_line_that_names_both(jboost, workshop, case) -> None:
    if case in ("run folder is the data", "run folder is in the data"):
        pytest.importorskip("accelerate")
    arguments, *options = CLASHES[case]
    before = listing(workshop)
    done = jboost(*arguments, cwd=workshop)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("jboost: ")
    assert done.stderr.count("\n") == 1
    assert all(f"{option} " in done.stderr for option in options), done.stderr
    assert listing(workshop) == before


BLOCKING = {
    "samples": ("boost", "fifo", *FAST),
    "bundle": ("boost", "samples.npz", "--bundle", "fifo"),
    "output": ("boost", "samples.npz", *FAST, "-o", "fifo.npz"),
    "json": ("boost", "samples.npz", *FAST, "--json", "fifo"),
    "grid": ("boost", "samples.npz", *FAST, "--grid", "fifo"),
    "run": ("boost", "samples.npz", *FAST, "--run", "sock"),
    "device": ("boost", "/dev/zero", *FAST),
    "checkpoint": ("export", "--ckpt", "fifo"),
    "checkpoint that never ends": ("export", "--ckpt", "/dev/zero"),
    "real": ("export", "--ckpt", "joint.safetensors", "--real", "fifo"),
    "bundle to write": ("export", "--ckpt", "joint.safetensors", "-o", "fifo"),
    "training data": ("train", "--real", "fifo", "--generated", "samples.npz"),
    "training config": ("train", "--config", "fifo"),
    "reference": ("eval", "fifo", "set"),
    "set": ("eval", "set", "fifo"),
    "features": ("eval", "set", "set", "--features", "fifo"),
    "run to report": ("report", "fifo"),
    "page": ("report", "samples.npz", "-o", "fifo"),
    "bundle to verify": ("verify", "fifo"),
    "anything": ("inspect", "fifo"),
    "socket": ("inspect", "sock"),
}


@pytest.mark.parametrize("case", BLOCKING)
def test_what_would_block_is_refused_at_once(jboost, workshop, case) -> None:
    before = listing(workshop)
    done = jboost(*BLOCKING[case], cwd=workshop)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert any(what in done.stderr for what in ("is a pipe", "is a socket", "is a device")), done.stderr
    assert listing(workshop) == before


def test_streams_of_the_system_are_written_to(tmp_path) -> None:
    check_paths(outputs={"--grid": Path("/dev/null"), "--run": Path("/dev/null")}, json_file="/dev/stdout")
    reader, writer = os.pipe()
    check_paths(json_file=f"/dev/fd/{writer}")
    os.close(reader)
    os.close(writer)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(BadInputError, match=r"--json .*fifo is a pipe"):
        check_paths(json_file=str(tmp_path / "fifo"))


def no_steps(workshop: Path) -> tuple[str | Path, ...]:
    """The arguments of a run that only copies."""
    return ("boost", workshop / "samples.npz", "--bundle", workshop / "bundle", "--engine", "eager", "--steps", "0")


def test_a_link_as_an_output_is_written_through(jboost, workshop, tmp_path) -> None:
    (tmp_path / "link.json").symlink_to("there.json")
    (tmp_path / "link.npz").symlink_to("there.npz")
    done = jboost(*no_steps(workshop), "-o", "link.npz", "--json", "link.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "link.npz").is_symlink()
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "there.npz").stat().st_size > 1000
    assert (tmp_path / "there.json").stat().st_size > 100


def test_paths_that_do_not_touch_pass(tmp_path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "bundle").mkdir()
    check_paths(
        inputs={"SAMPLES": tmp_path / "set", "--bundle": tmp_path / "bundle"},
        folders={"-o": tmp_path / "set_boosted"},
        outputs={"--grid": tmp_path / "set.png"},
        json_file=str(tmp_path / "set.json"),
    )


def test_a_pipe_in_a_training_folder_is_refused(tmp_path) -> None:
    (tmp_path / "0").mkdir()
    os.mkfifo(tmp_path / "0" / "a.png")
    with pytest.raises(BadInputError, match="not a file"):
        open_real(tmp_path, resolution=None, channels=None)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_place_for_json_is_named(jboost, workshop, tmp_path) -> None:
    done = jboost(*no_steps(workshop), "-o", tmp_path / "o.npz", "--json", "/dev/full")
    assert done.returncode == 2
    assert "no room for /dev/full" in done.stderr.splitlines()[-1]
    assert (tmp_path / "o.npz").exists()
