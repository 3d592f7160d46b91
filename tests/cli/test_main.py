"""The command as a user runs it, in a subprocess."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from children import started
from PIL import Image
from processes import wait_until

from jboost.engine.errors import BadInputError
from jboost.engine.method.settings import PRESETS
from jboost.engine.results.run_file import read_run

FAST = ("--steps", "2", "--device", "cpu")


def load(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as data:
        return data["arr_0"], data["arr_1"]


def test_checkpoint_and_samples_in_boosted_samples_out(installed, checkpoint, samples, tmp_path) -> None:
    shutil.copy(checkpoint, tmp_path / "joint.safetensors")
    exported = installed("export", "--ckpt", "joint.safetensors", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert "gradient error" in exported.stdout
    done = installed(
        "boost", "--engine", "eager", "samples.npz", "--json", "s.json", "--grid", "g.png", *FAST, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    before, labels = load(samples)
    after, after_labels = load(tmp_path / "samples.boosted.npz")
    assert after.shape == before.shape
    assert after.dtype == np.uint8
    assert (after != before).any()
    np.testing.assert_array_equal(after_labels, labels)
    summary = json.loads((tmp_path / "s.json").read_text())
    assert (summary["images"], summary["steps"], summary["objective"], summary["engine"]) == (23, 2, "joint", "eager")
    with Image.open(tmp_path / "g.png") as grid:
        assert grid.width > 5 * 80
    for word in ("realness", "accuracy", "steps used", "stopped early", "images/s", "L2 moved"):
        assert word in done.stdout


def test_snapshots_and_the_run_are_kept(jboost, bundle, samples, tmp_path) -> None:
    command = ["boost", samples, "--bundle", bundle, "--engine", "eager", "--step-size", "0.2", "-o", "set.zip"]
    done = jboost(*command, "--steps", "3", "--snapshots", "2,1", "--run", "run.npz", "--json", "s.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "s.json").read_text())
    run = read_run(tmp_path / "run.npz")
    assert run.boosted == tmp_path / "set.zip"
    assert run.samples.samefile(samples)
    assert run.snapshots == {1: tmp_path / "set.step1.zip", 2: tmp_path / "set.step2.zip"}
    assert all(path.exists() for path in run.snapshots.values())
    assert summary["steps_used"] == pytest.approx(run.records["steps"].mean())
    assert summary["realness_after"] == pytest.approx(run.records["realness_after"].mean(), rel=1e-6)
    rising = [summary["realness_before"], *(taken["realness"] for taken in summary["snapshots"])]
    assert rising == sorted(rising)
    # A folder that moves as a whole stays whole.
    moved = tmp_path.rename(tmp_path.with_name(tmp_path.name + "_moved"))
    assert read_run(moved / "run.npz").boosted.exists()
    moved.rename(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_what_is_no_run_is_refused(tmp_path, content) -> None:
    path = tmp_path / "run.npz"
    if content is None:
        np.savez(path, arr_0=np.zeros((2, 4, 4, 3), np.uint8))
    else:
        path.write_bytes(content)
    with pytest.raises(BadInputError, match="--run"):
        read_run(path)


def test_json_on_stdout_is_nothing_but_json(jboost, bundle, samples) -> None:
    done = jboost("boost", samples, "--bundle", bundle, "--json", "-", *FAST)
    assert json.loads(done.stdout)["images"] == 23
    assert "auto" not in done.stdout
    # --engine auto says what it picked and why.
    assert re.search(r"engine \w+: \S+ ms an image-step when the bundle was exported here", done.stderr)


def test_missing_labels_and_unused_labels_are_said(jboost, bundle, tmp_path, images, samples) -> None:
    np.savez(tmp_path / "bare.npz", images)
    done = jboost("boost", tmp_path / "bare.npz", "--bundle", bundle, *FAST)
    assert "prediction" in done.stderr
    with np.load(tmp_path / "bare.boosted.npz") as out:
        assert out.files == ["arr_0"]
    done = jboost("boost", samples, "--bundle", bundle, "--objective", "energy", *FAST)
    assert done.returncode == 0
    assert "does not use the labels" in done.stderr


def test_zero_steps_give_back_the_bytes(jboost, bundle, samples, tmp_path) -> None:
    jboost("boost", samples, "--bundle", bundle, "--steps", "0", "-o", tmp_path / "same.npz")
    np.testing.assert_array_equal(load(tmp_path / "same.npz")[0], load(samples)[0])


def test_a_killed_run_is_resumed_to_the_same_file(jboost, bundle, samples, tmp_path) -> None:
    command = [
        "boost",
        samples,
        "--bundle",
        bundle,
        "--preset",
        "released-sgld",
        "--steps",
        "40",
        "--noise",
        "0.01",
        "-b",
        "2",
        "--device",
        "cpu",
    ]
    assert jboost(*command, "-o", tmp_path / "whole.npz").returncode == 0
    out = tmp_path / "out.npz"
    killed = started(*command, "-o", out)
    records = tmp_path / "out.npz.partial" / "records.bin"
    wait_until(lambda: not killed.running or (records.exists() and any(records.read_bytes())), 120)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not out.exists()
    again = jboost(*command, "-o", out)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    assert jboost(*command, "-o", out, "--resume").returncode == 0
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_folder_of_pngs_gives_a_folder_of_pngs(jboost, bundle, tmp_path, images) -> None:
    for i, image in enumerate(images[:4]):
        (tmp_path / "set" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "set" / str(i % 2) / f"{i}.png")
    done = jboost("boost", tmp_path / "set", "--bundle", bundle, *FAST)
    assert done.returncode == 0, done.stderr
    names = sorted(
        p.relative_to(tmp_path / "set_boosted").as_posix() for p in (tmp_path / "set_boosted").rglob("*.png")
    )
    assert names == ["0/0.png", "0/2.png", "1/1.png", "1/3.png"]


BAD = {
    "no such file": (["none.npz"], "does not exist"),
    "not an npz": (["text.npz"], "np.savez"),
    "labels beyond the classes": (["labels.npz"], "out of range"),
    "another size": (["small.npz"], "--resolution 8"),
    "unknown preset": (["samples.npz", "--preset", "ct3"], "ct1"),
    "unknown objective": (["samples.npz", "--objective", "jiont"], "ce-bce"),
    "unknown engine": (["samples.npz", "--engine", "tensorrt"], "eager"),
    "unknown dtype": (["samples.npz", "--dtype", "int8"], "bf16"),
    "missing bundle": (["samples.npz", "--bundle", "nowhere"], "jboost export"),
    "output is input": (["samples.npz", "-o", "samples.npz"], "-o"),
    "output in no folder": (["samples.npz", "-o", "no/such/out.npz"], "mkdir"),
    "grid in no folder": (["samples.npz", "--grid", "no/g.png"], "--grid"),
    "noise with pgd": (["samples.npz", "--noise", "0.1"], "--update sgld"),
    "early stop without l0": (["samples.npz", "--bundle", "bare", "--early-stop"], "--l0"),
    "joint without l0": (["samples.npz", "--bundle", "bare", "--objective", "joint"], "--real"),
    "a snapshot past the end": (["samples.npz", "--steps", "3", "--snapshots", "1,4"], "from 1 to 3"),
    "snapshots that are no numbers": (["samples.npz", "--snapshots", "1;4"], "--snapshots"),
    "the run over the input": (["samples.npz", "--run", "samples.npz"], "--run"),
    "bad batch": (["samples.npz", "-b", "0"], "at least 1"),
    "no CUDA": (["samples.npz", "--device", "cuda"], "--device cpu"),
    "flipped byte": (["samples.npz", "--bundle", "flipped", "--engine", "eager"], "SHA-256"),
    "unknown option": (["samples.npz", "--stepz", "3"], "--stepz"),
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, checkpoint, bundle, images, labels) -> Path:
    from jboost.export.bundle import export_bundle
    from jboost.export.checkpoints.load import load_checkpoint

    root = tmp_path_factory.mktemp("workshop")
    shutil.copytree(bundle, root / "bundle")
    shutil.copytree(bundle, root / "flipped")
    program = (root / "flipped" / "forward.pt2").read_bytes()
    (root / "flipped" / "forward.pt2").write_bytes(program[:5000] + bytes([program[5000] ^ 1]) + program[5001:])
    torch.save(load_checkpoint(checkpoint).model.network.state_dict(), root / "bare.pt")
    export_bundle(root / "bare.pt", root / "bare", arch="small_resnet8", resolutions=(16,), formats=())
    np.savez(root / "samples.npz", images, labels)
    np.savez(root / "labels.npz", images, labels + 1)
    np.savez(root / "small.npz", images[:, :8, :8], labels)
    (root / "text.npz").write_text("hello")
    return root


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_exit_code_2_and_nothing_written(jboost, workshop, case) -> None:
    arguments, remedy = BAD[case]
    if case == "no CUDA" and torch.cuda.is_available():
        pytest.skip("CUDA is here")
    before = sorted(workshop.rglob("*"))
    done = jboost("boost", *arguments, cwd=workshop)
    assert done.returncode == 2, done.stderr
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr
    if case != "unknown option":  # that one is Typer's, with its usage line
        message = [line for line in done.stderr.splitlines() if line.startswith("jboost: ")]
        assert len(message) == 1
        assert done.stderr.rstrip().endswith(message[0])
    assert sorted(workshop.rglob("*")) == before


def test_a_full_disk_is_one_line_and_leaves_nothing(installed, workshop) -> None:
    before = sorted(workshop.rglob("*"))
    limit = (
        4096,
        resource.getrlimit(resource.RLIMIT_FSIZE)[1],
    )  # what a full disk does, at a size that a test can reach
    done = installed(
        "boost", "samples.npz", *FAST, cwd=workshop, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    )
    assert done.returncode == 2, done.stderr
    assert "no room" in done.stderr
    assert sorted(workshop.rglob("*")) == before


@pytest.mark.parametrize(
    "room", [pytest.param(4096, marks=pytest.mark.slow), 150_000]
)  # for none of the files, and for the weights but not the forward program
def test_a_full_disk_leaves_no_half_made_bundle(installed, checkpoint, tmp_path, room) -> None:
    limit = (room, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    done = installed(
        "export",
        "--ckpt",
        checkpoint,
        "-o",
        tmp_path / "b",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert done.returncode == 2, done.stderr
    assert "no room" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named(jboost, workshop) -> None:
    locked = workshop / "locked"
    locked.mkdir(mode=0o500)
    done = jboost("boost", "samples.npz", "-o", locked / "out.npz", cwd=workshop)
    assert done.returncode == 2
    assert "not writable" in done.stderr


def test_export_of_bad_checkpoints_is_refused_and_leaves_no_bundle(jboost, workshop, tmp_path) -> None:
    torch.save({"weights": torch.full((3, 3), float("nan"))}, tmp_path / "odd.pt")
    for arguments, remedy in (
        (["--ckpt", tmp_path / "none.pt"], "none.pt"),
        (["--ckpt", tmp_path / "odd.pt"], "--arch"),
        (["--ckpt", workshop / "bare.pt", "--arch", "resnet18", "--resolution", "16"], "small_resnet8"),
        (["--ckpt", workshop / "bare.pt", "--arch", "small_resnet8"], "--resolution"),
        (["--ckpt", workshop / "bare.pt", "--arch", "small_resnet8", "--resolution", "big"], "64,128"),
        (["--ckpt", workshop / "bare.pt", "--arch", "no.such:thing", "--resolution", "16"], "no.such"),
    ):
        done = jboost("export", *arguments, "-o", tmp_path / "bundle")
        assert done.returncode == 2, (arguments, done.stderr)
        assert remedy in done.stderr
        assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["odd.pt"]


def test_nan_weights_are_refused_by_name(jboost, workshop, tmp_path) -> None:
    state = torch.load(workshop / "bare.pt", weights_only=True)
    state["fc.bias"][1] = float("nan")
    torch.save(state, tmp_path / "nan.pt")
    done = jboost(
        "export", "--ckpt", tmp_path / "nan.pt", "--arch", "small_resnet8", "--resolution", "16", "-o", tmp_path / "b"
    )
    assert done.returncode == 2
    assert "fc.bias" in done.stderr


def test_inspect_tells_what_a_file_is(jboost, workshop) -> None:
    def facts(name: str, *options: str) -> dict:
        done = jboost("inspect", name, "--json", *options, cwd=workshop)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    samples = facts("samples.npz")
    assert (samples["kind"], samples["images"], samples["height"], samples["classes"]) == ("samples", 23, 16, 5)
    assert samples["labels"] == {"0": 5, "1": 5, "2": 5, "3": 4, "4": 4}
    bundle = facts("bundle")
    assert (bundle["kind"], bundle["architecture"], bundle["hashes"]) == ("bundle", "small_resnet8", "all files match")
    assert facts("bare.pt", "--arch", "small_resnet8")["classes"] == 5
    assert "small_resnet8" in jboost("inspect", "bundle", cwd=workshop).stdout
    done = jboost("inspect", "flipped", cwd=workshop)
    assert done.returncode == 2
    assert "SHA-256" in done.stderr


def test_doctor_lists_every_engine(installed, jboost) -> None:
    found = json.loads(installed("doctor", "--json").stdout)["engines"]
    assert set(found) == {"eager", "compile", "onnx", "trt"}
    assert found["eager"]["available"]
    for engine in found.values():
        assert engine["why"]
        assert engine["available"] or engine["remedy"]
    assert "eager" in jboost("doctor").stdout


def test_debug_shows_the_traceback(jboost, workshop) -> None:
    done = jboost("boost", "none.npz", "--debug", cwd=workshop)
    assert "Traceback" in done.stderr
    assert "BadInputError" in done.stderr


def test_help_is_quick_and_says_where_every_preset_is_named(installed) -> None:
    used = []
    for _ in range(3):
        before = os.times()
        assert installed("--help").returncode == 0
        after = os.times()  # processor time: wall time would measure the neighbours as well
        used.append(after.children_user - before.children_user + after.children_system - before.children_system)
    assert min(used) < 0.5
    text = installed("boost", "--help").stdout
    assert "list shows all" in " ".join(text.replace("│", " ").split())
    shown = installed("boost", "--preset", "list")  # without samples
    assert shown.returncode == 0
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == list(PRESETS)


def test_importing_jboost_loads_no_backend() -> None:
    code = "import sys, jboost, jboost.cli.main; print([m for m in ('torch', 'onnxruntime', 'PIL', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_help_does_not_wait_for_numpy() -> None:
    """Only `boost` has options from the registry of updates, which needs numpy."""
    code = "import sys\nfrom jboost.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: print('numpy' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.splitlines()[-1] == "False"
    )


def test_an_eps_below_one_level_is_said_and_the_smallest_that_is_named_moves_an_image(jboost, bundle, samples) -> None:
    how = (
        "boost",
        samples,
        "--bundle",
        bundle,
        "--engine",
        "onnx",
        "--norm",
        "linf",
        "--step-size",
        0.01,
        "--no-early-stop",
    )
    run = jboost(*how, "--eps", 0.0015)
    assert run.returncode == 0, run.stderr
    assert "eps 0.0015 is less than one grey level" in run.stderr
    smallest = re.search(r"the smallest eps that changes a pixel is (\S+) ", run.stderr)
    assert smallest
    with np.load(samples) as before, np.load(samples.with_name("samples.boosted.npz")) as after:
        np.testing.assert_array_equal(after["arr_0"], before["arr_0"])
    run = jboost(*how, "--eps", smallest[1])
    assert "grey level" not in run.stderr + run.stdout
    with np.load(samples) as before, np.load(samples.with_name("samples.boosted.npz")) as after:
        assert np.abs(after["arr_0"].astype(int) - before["arr_0"]).max() == 1
