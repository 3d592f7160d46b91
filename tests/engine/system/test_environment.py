"""What is stated wins over the environment, or the environment is refused by name; following the message gives the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import train_cases
from train_cases import configuration, run

from jboost.bench.baselines import why_no_torch_compile
from jboost.engine.backends.torch_device import find_device
from jboost.engine.errors import BadInputError
from jboost.engine.system import environment
from jboost.engine.system.environment import VARIABLES, check_environment, set_variables, thread_count
from jboost.trainer.checkpoint import read_safetensors
from jboost.trainer.run import LAST


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch) -> None:
    for variable in VARIABLES:
        if variable.name not in ("OMP_NUM_THREADS", "TMPDIR", "JBOOST_CACHE", "JBOOST_TRUST"):
            monkeypatch.delenv(variable.name, raising=False)


REFUSED = [v for v in VARIABLES if v.scope not in (environment.PINNED, environment.SHOWN)]


@pytest.mark.parametrize("variable", REFUSED, ids=lambda v: v.name)
def test_a_variable_is_refused_where_it_counts_and_its_removal_is_the_remedy(variable, monkeypatch) -> None:
    check_environment(variable.scope)
    monkeypatch.setenv(variable.name, variable.harmless[-1])
    check_environment(variable.scope)
    monkeypatch.setenv(variable.name, "1")
    assert [v.name for v, _ in set_variables() if v.scope == variable.scope] == [variable.name]
    with pytest.raises(BadInputError, match=f"{variable.name}=1 .*remove it: unset {variable.name}$"):
        check_environment(variable.scope)
    for other in {v.scope for v in REFUSED} - {variable.scope}:
        check_environment(other)
    monkeypatch.delenv(variable.name)  # the remedy
    check_environment(variable.scope)


TRAIN = """
import sys
from pathlib import Path
from train_cases import configuration, run
run(configuration(iterations=2, batch_size=8), Path(sys.argv[1]))
"""


def trained(out: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", TRAIN, str(out)]
    where = Path(train_cases.__file__).parent
    return subprocess.run(command, cwd=where, env=os.environ | variables, capture_output=True, text=True, timeout=240)


@pytest.mark.parametrize(
    "variables",
    [
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
        {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
    ],
    ids=lambda variables: "+".join(variables),
)
def test_the_configuration_wins_over_accelerates_variables(tmp_path, variables) -> None:
    run(configuration(iterations=2, batch_size=8), tmp_path / "stated")
    done = trained(tmp_path / "set", **variables)
    assert done.returncode == 0, done.stderr
    stated, theirs = (read_safetensors(tmp_path / name / LAST)[0] for name in ("stated", "set"))
    for name, tensor in stated.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize(
    "variables",
    [{"ACCELERATE_USE_FSDP": "true"}, {"ONEDNN_DEFAULT_FPMATH_MODE": "BF16"}, {"ACCELERATE_USE_CPU": "yes"}],
)
def test_a_training_refuses_what_it_cannot_outvote(tmp_path, variables, monkeypatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(BadInputError, match=f"{next(iter(variables))}=.*unset"):
        run(configuration(iterations=1), tmp_path / "run")


def test_float32_on_a_cpu_is_float32(jboost, bundle, samples, monkeypatch) -> None:
    how = ("boost", samples, "--bundle", bundle, "--engine", "eager", "--device", "cpu", "--steps", 1)
    assert jboost(*how).returncode == 0
    with np.load(samples.with_name("samples.boosted.npz")) as written:
        plain = written["arr_0"]
    for name in ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"):
        monkeypatch.setenv(name, "BF16")
        done = jboost(*how)
        assert done.returncode == 2
        said = done.stderr.splitlines()[-1]  # the first line tells of the labels
        assert f"{name}=BF16" in said
        assert "--dtype" in said
        monkeypatch.delenv(name)
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "STRICT")
    assert jboost(*how).returncode == 0
    with np.load(samples.with_name("samples.boosted.npz")) as written:
        np.testing.assert_array_equal(written["arr_0"], plain)


def test_torch_compile_that_is_turned_off_is_not_measured(monkeypatch) -> None:
    monkeypatch.setenv("TORCH_COMPILE_DISABLE", "1")
    why = why_no_torch_compile("cpu")
    assert why is not None
    assert "unset TORCH_COMPILE_DISABLE" in why


@pytest.mark.parametrize(("text", "threads"), [("", 0), ("3", 3), (" 4,2 ", 4)])
def test_threads_are_read_as_openmp_reads_them(monkeypatch, text, threads) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert thread_count() == threads


@pytest.mark.parametrize("text", ["abc", "0", "-1", ",2", "1e3"])
def test_other_threads_are_refused(monkeypatch, text) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.raises(BadInputError, match="export OMP_NUM_THREADS=4"):
        thread_count()


def test_a_device_that_a_variable_hides_is_refused_with_the_variable(monkeypatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(BadInputError, match=r"no usable CUDA device \(CUDA_VISIBLE_DEVICES=3\); use --device cpu"):
        find_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadInputError, match=r"CUDA_VISIBLE_DEVICES=3 leaves 1 CUDA device.*use --device cuda:0$"):
        find_device("cuda:3")
    assert find_device("cuda:0") == "cuda:0"  # the remedy


def test_doctor_shows_what_is_set(jboost, monkeypatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    shown = json.loads(jboost("doctor", "--json").stdout)["environment"]
    assert shown["NVIDIA_TF32_OVERRIDE"]["value"] == "1"
    assert "unset NVIDIA_TF32_OVERRIDE" in shown["NVIDIA_TF32_OVERRIDE"]["action"]
    assert "no effect" in shown["ACCELERATE_GRADIENT_ACCUMULATION_STEPS"]["action"]
    assert "NVIDIA_TF32_OVERRIDE" in jboost("doctor").stdout
