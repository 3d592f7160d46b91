"""What a message tells the user to type is right: the options exist where they are named, and following the words helps."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.main import get_command

import jboost as api
from jboost.cli.main import make_app
from jboost.engine.samples import ReadOptions
from jboost.evaluation import evaluate

ROOT = Path(__file__).parents[1]
#: Options of other programs that messages and lists hold.
FOREIGN = {
    "--extra-index-url": "pip", "--multi-gpu": "accelerate", "--fmad": "nvcc", "--std": "nvcc", "--gpu-architecture": "nvcc",
    "--field-name": "an example", "--dereference": "tar", "--hard-dereference": "tar", "--sort": "tar", "--index-url": "pip",
    "--force-reinstall": "pip", "--array": "sbatch", "--head": "ray", "--num-cpus": "ray",
}  # fmt: skip
#: Where the messages of a folder may appear: the commands that run its code.
COMMANDS = {
    "trainer/factories": {"export"},  # what names and builds a network serves export too
    "trainer/registries": {"export"},
    "trainer": {"train"},
    "jboost/bench": {"bench", "export"},
    "jboost/evaluation": {"eval", "report", "train"},
    "jboost/report": {"report", "boost", "eval"},
    "export/trt": {"export"},
    "export/onnx": {"export"},
}
_FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


@cache
def options() -> dict[str, frozenset[str]]:
    """Every option by command."""
    commands = get_command(make_app()).commands  # type: ignore[attr-defined]
    return {
        name: frozenset(o for p in command.params for o in (*p.opts, *p.secondary_opts)) | {"--help"}
        for name, command in commands.items()
    }


def texts(file: Path) -> Iterator[str]:
    """Every text of a source file but its docstrings; what an f-string computes is {}."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (inside | documentation)
        ):
            yield node.value


def sources() -> list[Path]:
    return [
        file for layer in ("engine", "trainer", "export", "jboost") for file in sorted((ROOT / layer).rglob("*.py"))
    ]


def wrong_options(text: str, allowed: frozenset[str]) -> list[str]:
    """The options in a text that do not exist there; what follows ``jboost COMMAND`` belongs to that command."""
    wrong = []
    for command, words in re.findall(r"\bjboost ([a-z]+)((?: [^;:,(]*)?)", text):
        if command in options():
            wrong += [f"{command} {flag}" for flag in _FLAG.findall(words) if flag not in options()[command]]
    rest = re.sub(r"\bjboost [a-z]+(?: [^;:,(]*)?", "", text)
    return wrong + [flag for flag in _FLAG.findall(rest) if flag not in allowed and flag not in FOREIGN]


def test_every_option_that_a_message_names_exists() -> None:
    everywhere = frozenset().union(*options().values()) | {"--version"}
    found = {}
    for file in sources():
        name = file.relative_to(ROOT).as_posix()
        own = next(
            (commands for place, commands in COMMANDS.items() if name.startswith((f"{place}/", f"{place}."))), None
        )
        allowed = everywhere if own is None else frozenset().union(*(options()[command] for command in own))
        for text in texts(file):
            if wrong := wrong_options(text, allowed):
                found[name, text] = wrong
    assert found == {}


def test_the_check_sees_a_wrong_option() -> None:
    allowed = options()["train"]
    assert wrong_options("export it with: jboost export --ckpt FILE --batch 3; then --learning-rate", allowed) == [
        "export --batch"
    ]
    assert wrong_options("lower --learning-rates", allowed) == ["--learning-rates"]
    assert wrong_options("jboost boost x.npz --norm linf --eps 0.1, or pip install --extra-index-url x", allowed) == []


def test_every_command_that_a_message_names_exists() -> None:
    words = {
        word
        for file in sources()
        for text in texts(file)
        for word in re.findall(r"(?:with|see|or|:) jboost ([a-z]+) ", text)
    }
    assert words <= {*options(), "states"}  # "jboost states its own value" is a sentence
    assert {"export", "boost"} <= words


def test_every_package_that_a_message_installs_is_one_of_ours_or_known() -> None:
    known = {
        "torch", "onnxruntime", "onnxruntime-gpu", "pycuda", "cuda-python", "nvidia-cudnn-cu13", "accelerate", "pydantic",
        "tensorboard", "matplotlib", "--extra-index-url", "triton", "tensorrt", "tensorrt-rtx-cu13", "jboost", "{}",
        "--force-reinstall", "timm", "torchvision",
    }  # fmt: skip
    named = set()
    for file in sources():
        for text in texts(file):
            for words in re.findall(r"pip install ((?:[\w{}'\"\[\].,-]+ ?)+)", text):
                plain = [re.sub(r"\[.*?\]", "", word).strip("'\"),.") for word in words.split()]
                # The sentence goes on after the packages.
                named |= set(plain[:1]) | {word for word in plain[1:] if word in known}
    assert named - known == set(), "a package that nobody has checked: look it up, then add it here"


# --- remedies, followed --------------------------------------------------------------------------------------------------------


def command(message: str) -> str:
    """The command after the last colon of a message's last line."""
    return message.strip().splitlines()[-1].rpartition(": ")[2]


def follow(typed: str, cwd: Path) -> None:
    done = subprocess.run(["sh", "-c", typed], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, (typed, done.stderr)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("-o", "made for this/out.npz"),
        ("-o", "-o/out.npz"),
        ("--json", "$HOME; it's/out.json"),
        ("--run", "a b/out.npz"),
    ],
)
def test_a_missing_folder_is_made_as_the_message_says(jboost, bundle, samples, tmp_path, option, value) -> None:
    stated = f"-o{value}" if option == "-o" else f"{option}={value}"
    arguments = ["boost", samples, "--bundle", bundle, "--engine", "onnx", "--steps", 0, stated]
    refused = jboost(*arguments, cwd=tmp_path)
    assert refused.returncode == 2
    assert "mkdir -p " in refused.stderr
    follow(command(refused.stderr), tmp_path)
    assert (tmp_path / value).parent.is_dir()
    done = jboost(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / value).is_file()


def test_an_unfinished_run_is_removed_as_the_message_says_and_nothing_else_is(
    jboost, bundle, samples, tmp_path
) -> None:
    out = tmp_path / "my run.npz"
    partial, kept = tmp_path / "my run.npz.partial", tmp_path / "my"
    partial.mkdir()
    kept.mkdir()
    how = ("boost", samples, "--bundle", bundle, "--engine", "onnx", "--steps", 0, "-o", out)
    refused = jboost(*how)
    assert refused.returncode == 2
    follow(command(refused.stderr), tmp_path)
    assert not partial.exists()
    assert kept.is_dir()
    assert jboost(*how).returncode == 0


def test_a_finished_training_is_removed_as_the_message_says(tmp_path) -> None:
    from train_cases import configuration, run

    out = tmp_path / "runs of mine"
    run(configuration(iterations=1, validate_every=1), out)
    with pytest.raises(api.BadInputError, match="rm -r") as refused:
        run(configuration(iterations=1, validate_every=1), out)
    follow(command(str(refused.value)), tmp_path)
    assert run(configuration(iterations=1, validate_every=1), out) is not None


def test_a_missing_graph_is_exported_as_the_message_says(jboost, bundle, checkpoint, samples, tmp_path) -> None:
    copy = tmp_path / "bundle"
    follow(f"cp -r {shlex.quote(str(bundle))} {shlex.quote(str(copy))}", tmp_path)
    how = ("boost", samples, "--bundle", copy, "--engine", "onnx", "--objective", "ce", "--steps", 1)
    refused = jboost(*how, cwd=tmp_path)
    assert refused.returncode == 2
    typed = re.search(r"export one with: jboost (export .*?) \(", refused.stderr)
    assert typed
    words = [str(checkpoint) if word == "FILE" else word for word in shlex.split(typed[1])]
    exported = jboost(*words, "-o", copy, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert jboost(*how, cwd=tmp_path).returncode == 0


def test_an_option_of_another_update_is_used_as_the_message_says(jboost, bundle, samples) -> None:
    how = ("boost", samples, "--bundle", bundle, "--engine", "onnx", "--steps", 1, "--noise", 0.01, "--no-early-stop")
    refused = jboost(*how)
    assert refused.returncode == 2
    typed = re.search(r"add (--update \w+)", refused.stderr)
    assert typed
    assert jboost(*how, *typed[1].split()).returncode == 0


def test_grey_images_are_made_colour_as_the_message_says(tmp_path, monkeypatch) -> None:
    (tmp_path / "plain_features.py").write_text("def make():\n    return lambda x: x.mean(3).flatten(1)\n")
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 1), dtype=np.uint8)
    np.savez("grey.npz", images)
    np.savez("colour.npz", np.repeat(images, 3, axis=3))
    how = {"features": "plain_features:make", "metrics": ("fid",), "device": "cpu", "resamples": 0}
    with pytest.raises(api.BadInputError, match="repeat the grey channel with --channels 3"):
        evaluate("colour.npz", ["grey.npz"], **how)
    found = evaluate("colour.npz", ["grey.npz"], reading=ReadOptions(channels=3), **how)
    assert found.samples[0].metrics["fid"].value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("batch", "remedy"), [(8, "--resume -b 4"), (1, "--resume --device cpu")])
def test_out_of_gpu_memory_names_what_is_smaller(bundle, images, labels, monkeypatch, batch, remedy) -> None:
    def full(*args: object, **options: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with api.load(bundle, engine="eager", device="cpu", batch_size=batch) as booster:
        monkeypatch.setattr("jboost.engine.backends.eager.runner.EagerRunner.gradient", full)
        with pytest.raises(api.FailureError, match=f"{remedy}$"):
            booster.boost(images, labels)
