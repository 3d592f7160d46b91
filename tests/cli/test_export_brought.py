"""`jboost export` of somebody else's module: one line and exit code 2, or the right function."""

from __future__ import annotations

from pathlib import Path

import brought
import numpy as np
import pytest
import torch
from brought import images, logits, pipeline
from torch import nn

SCRIPTS = {
    "exits": ("import sys\nfrom nets import Net\nsys.exit(0)\n", "sys.exit(0)"),
    "quits": ("from nets import Net\nraise SystemExit('bye')\n", "bye"),
    "parses": (
        "import argparse\nfrom nets import Net\np = argparse.ArgumentParser()\np.add_argument('data')\nargs = p.parse_args()\n",
        "the following arguments are required: data",
    ),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("brought")
    (root / "nets.py").write_text(brought.NET)
    torch.save(user_net().state_dict(), root / "net.pt")
    return root


def user_net() -> nn.Module:
    space: dict = {"__name__": "conftest"}
    exec(brought.NET, space)
    return brought.scaled(space["Net"](4))


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_does_not_end_the_command_in_silence(jboost, place: Path, name: str) -> None:
    text, said = SCRIPTS[name]
    (place / f"{name}.py").write_text(text)
    done = jboost("export", "--ckpt", "net.pt", "--arch", f"{name}:Net", "--resolution", "32", "-o", "b", cwd=place)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "__main__" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (place / "b").exists()


def test_a_question_and_its_answer(jboost, place: Path) -> None:
    """Following the messages one after the other ends in the right function."""
    # A script whose arguments are all optional sees none of jboost's.
    (place / "optional.py").write_text(
        "import argparse\nfrom nets import Net\np = argparse.ArgumentParser()\np.add_argument('--data')\np.parse_args()\n"
    )
    command = ["export", "--ckpt", "net.pt", "--arch", "optional.py:Net", "--format", "none"]
    for option, value, others in (
        ("--normalize", "0.5,0.5,0.5/0.2,0.2,0.2", "imagenet, cifar10, none"),
        ("--resolution", "32", "--resolution 64"),
    ):
        done = jboost(*command, cwd=place)
        assert (done.returncode, option in done.stderr, others in done.stderr) == (2, True, True), done.stderr
        assert not (place / "bundle").exists()
        command += [option, value]
    done = jboost(*command, cwd=place)
    assert done.returncode == 0, done.stderr
    expected = pipeline(user_net(), (0.5,) * 3, (0.2,) * 3, images())
    torch.testing.assert_close(logits(place / "bundle", images()), expected, rtol=1e-4, atol=1e-4)


def test_a_set_of_samples_is_no_checkpoint(jboost, place: Path) -> None:
    np.savez(place / "samples.npz", np.zeros((2, 4, 4, 3), np.uint8))
    done = jboost("export", "--ckpt", "samples.npz", cwd=place)
    assert done.returncode == 2
    assert done.stderr == (
        "jboost: samples.npz holds arrays, like a set of samples, and no network; pass the network's file to --ckpt, and images "
        "to --real or to jboost boost\n"
    )


def test_without_weights_a_file_is_asked_for(jboost, place: Path) -> None:
    done = jboost("export", cwd=place)
    assert (done.returncode, "pass --ckpt FILE" in done.stderr) == (2, True), done.stderr


def test_inspect_needs_no_normalisation(jboost, place: Path) -> None:
    done = jboost("inspect", "net.pt", "--arch", "nets:Net", cwd=place)
    assert done.returncode == 0, done.stderr
    assert "export asks for --normalize" in done.stdout
