"""What a command can refuse by names and files alone, it refuses without importing torch, which takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

#: Commands that must be refused, and a word of the message. S: a sample set, B: a bundle, C: a checkpoint.
REFUSED = (
    ("boost none.npz --bundle B", "none.npz does not exist"),
    ("boost S --bundle B --device gpu", "unknown device 'gpu'"),
    ("boost S --bundle B --engine fast", "unknown engine 'fast'"),
    ("boost S --bundle B --preset fast", "unknown preset 'fast'"),
    ("export", "no weights"),
    ("export --ckpt none.pt", "no checkpoint file none.pt"),
    ("export --ckpt C --device gpu", "unknown device 'gpu'"),
    ("export --ckpt C --format onx", "unknown format 'onx'"),
    ("export --ckpt C --dtype fp8", "unknown dtype 'fp8'"),
    ("export --ckpt C --atol -1", "--atol must be a finite number, 0 or above, got -1"),
    ("export --ckpt C --rtol nan", "--rtol must be a finite number, 0 or above, got nan"),
    ("export --ckpt C --objective best", "unknown objective 'best'"),
    ("export --ckpt C --real none.npz", "none.npz does not exist"),
    ("train", "no real images are given"),
    ("train --real S --generated none.npz", "none.npz does not exist"),
    ("train --real S --generated S --device gpu", "--device must be 'auto', 'cpu' or 'cuda', got 'gpu'"),
    ("train --real S --generated S --preset fast", "unknown preset 'fast'"),
    ("eval none.npz S", "none.npz does not exist"),
    ("eval S S --device gpu", "unknown device 'gpu'"),
    ("bench --bundle B --device gpu", "unknown device 'gpu'"),
    ("verify B --atol nan", "--atol must be a finite number, 0 or above, got nan"),
    ("verify B --rtol inf", "--rtol must be a finite number, 0 or above, got inf"),
    ("verify nowhere", "nowhere does not exist"),
    ("inspect nowhere", "nowhere does not exist"),
    ("report nowhere", "nowhere does not exist"),
    ("tune none.npz --ref S --bundle B", "none.npz does not exist"),
    ("tune S --ref S --bundle B --device gpu", "unknown device 'gpu'"),
)

_COMMAND = """
import sys
from jboost.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print("imported:", *sorted({"torch", "scipy", "onnxruntime", "onnx"} & set(sys.modules)))
"""


def imported(arguments: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run a command; which heavy packages it had imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", _COMMAND, *arguments], capture_output=True, text=True, cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"},
    )  # fmt: skip
    return done, done.stdout.splitlines()[-1].split()[1:]


@pytest.mark.parametrize(("command", "says"), REFUSED, ids=[command for command, _ in REFUSED])
def test_refusals_need_no_torch(command, says, bundle, checkpoint, samples, tmp_path) -> None:
    places = {"S": samples, "B": bundle, "C": checkpoint}
    done, heavy = imported([str(places.get(word, word)) for word in command.split()], tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert heavy == []


@pytest.mark.parametrize("opset", ["0", "17", "900"])
def test_an_opset_is_refused_without_torch(opset, checkpoint, tmp_path) -> None:
    done, heavy = imported(["export", "--ckpt", str(checkpoint), "--opset", opset], tmp_path)
    assert done.returncode == 2
    assert f"opset {opset} cannot be used" in done.stderr
    assert heavy == ["onnx", "onnxruntime"]  # their versions decide


def test_onnx_on_a_cpu_runs_without_torch(bundle, samples, tmp_path) -> None:
    arguments = ["boost", samples, "--bundle", bundle, "--engine", "onnx", "--device", "cpu", "--steps", "1"]
    done, heavy = imported([*map(str, arguments), "-o", str(tmp_path / "out.npz")], tmp_path)
    assert done.returncode == 0, done.stderr
    assert heavy == ["onnxruntime"]
