"""An update that is registered is offered, checked, run, compiled, exported and reported without another line anywhere."""

from __future__ import annotations

import functools
import importlib
import json
import shutil
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, ClassVar

import children
import numpy as np
import pytest
import torch
import typer
from closeness import assert_same_images

import jboost
from jboost.cli.main import make_app
from jboost.engine.backends.compiled.packages import step_name
from jboost.engine.backends.cuda.kernels import step_kernel
from jboost.engine.bundle import Bundle
from jboost.engine.method.noise import normal, split_seed
from jboost.engine.method.settings import Preset, make_update
from jboost.engine.method.updates import MOVES, RESERVED, UPDATES, Option, Update, register
from jboost.engine.results.run_file import read_run
from jboost.engine.results.summary import Summary
from jboost.engine.samples import open_samples
from jboost.export.bundle import export_bundle
from jboost.export.checkpoints.load import load_checkpoint
from jboost.export.compiled.steps import step_package
from jboost.export.verify import verify_bundle
from jboost.report.rows import settings_rows

BATCH = 8
#: The keys of the JSON summary; scripts rely on them.
KEYS = [
    "images", "steps", "steps_used", "stopped_early", "seconds", "images_per_second", "engine", "dtype", "device", "batch_size",
    "realness_before", "realness_after", "accuracy_before", "accuracy_after", "l2_moved", "fallbacks", "unchanged_after_failure",
    "update", "step_size", "eps", "norm", "noise", "objective", "l0", "early_stop", "seed", "labels", "peak_memory", "rounding",
    "engines_failed", "redone", "lossy", "not_finite", "not_finite_at", "unmoved", "first_step", "straightness", "snapshots",
]  # fmt: skip


@pytest.fixture(scope="module")
def tamed():
    """The module, its update registered; afterwards all is as it was, so that other tests see the built-in updates alone."""
    module = importlib.import_module("tamed_langevin")
    yield module
    del sys.modules["tamed_langevin"], UPDATES["tamed"], MOVES["tamed"]


@pytest.fixture(scope="module")
def exported(tamed, checkpoint, tmp_path_factory) -> Path:
    """A bundle of compiled packages, exported where the update is registered; it alone, to save time."""
    out = tmp_path_factory.mktemp("registered") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        for update_kind in MOVES.keys() - {"tamed"}:
            patch.delitem(MOVES, update_kind)
        export_bundle(checkpoint, out, formats=("compile",), objectives=("logit",), batch_size=BATCH)
    return out


@pytest.fixture
def command(tmp_path):
    """`jboost` in a process of its own that registers the update. The command line is imported first: it must not mind."""
    return functools.partial(children.jboost, cwd=tmp_path, first=_register)


def _register() -> None:
    import tamed_langevin  # noqa: F401


def reference(checkpoint, images, labels, *, steps: int, size: float, temperature: float, seed: int) -> np.ndarray:
    """The published formula in float64, image after image up the class logit."""
    model = load_checkpoint(checkpoint).model
    x = images.transpose(0, 3, 1, 2) / 255.0
    for step in range(steps):
        at = torch.from_numpy(x.astype(np.float32)).requires_grad_()
        logits = model(at).gather(1, torch.from_numpy(labels)[:, None])
        g = -torch.autograd.grad(logits.sum(), at)[0].numpy().astype(np.float64)
        taken = np.full(len(x), step)
        noise = normal(x.shape[1:], key=np.array(split_seed(seed)), index=np.arange(len(x)), step=taken)
        x = x - size * g / (1 + size * np.abs(g)) + np.sqrt(2 * size * temperature) * noise
    return np.rint(np.clip(x, 0, 1) * 255).astype(int).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("engine", ["eager", "compile"])
@pytest.mark.parametrize("temperature", [0.0, 0.05])
def test_an_engine_gives_what_the_formula_says(
    tamed, exported, checkpoint, images, labels, engine, temperature
) -> None:
    update = tamed.TamedLangevin(4, 0.01, temperature)
    with jboost.load(exported, engine=engine, device="cpu", batch_size=BATCH) as booster:
        got = booster.boost(images, labels, update, objective="logit", seed=5)
    want = reference(checkpoint, images, labels, steps=4, size=0.01, temperature=temperature, seed=5)
    assert_same_images(got.images, want)
    assert np.abs(want - images).mean() > 1  # it did something
    assert got.summary.engine == engine


def test_where_it_is_not_registered_verification_says_so(exported, monkeypatch) -> None:
    step = Bundle(exported).artefact(step_name("tamed", 16, "cpu")).file
    assert verify_bundle(Bundle(exported))[step]["worst"] < 2e-6
    monkeypatch.delitem(MOVES, "tamed")
    with pytest.raises(jboost.BadInputError, match="update tamed, which is not registered here"):
        verify_bundle(Bundle(exported))


def test_a_bundle_without_its_step_is_refused_before_anything_is_written(tamed, exported, samples, tmp_path) -> None:
    copy = Path(shutil.copytree(exported, tmp_path / "older"))
    config = Bundle(copy).config
    kept = {name: a for name, a in config.artefacts.items() if name != step_name("tamed", 16, "cpu")}
    (copy / "config.json").write_text(replace(config, artefacts=kept).to_json())
    with jboost.load(copy, engine="compile", device="cpu", trust_code=True) as booster:
        settings = booster.settings(tamed.TamedLangevin(), objective="logit", early_stop=False)
        with pytest.raises(jboost.BadInputError, match=r"no compiled step for the update tamed.*--engine eager") as e:
            booster.boost_file(open_samples(samples), tmp_path / "out.npz", settings)
    assert "\n" not in str(e.value)
    assert not list(tmp_path.glob("*out.npz*"))


def test_a_move_that_was_changed_is_compiled_again(exported, monkeypatch) -> None:
    """The cache holds the step that the export compiled; code from elsewhere than jboost must not be mistaken for it."""

    class CompilingError(Exception):
        pass

    def compiling():
        raise CompilingError

    step_package("tamed", BATCH, (3, 16, 16), "cpu", say=compiling)
    before = MOVES["tamed"]
    monkeypatch.setitem(MOVES, "tamed", lambda x, x0, grad, index, step, how: before(x, x0, 2 * grad, index, step, how))
    with pytest.raises(CompilingError):
        step_package("tamed", BATCH, (3, 16, 16), "cpu", say=compiling)


def test_without_a_kernel_an_engine_on_a_gpu_says_which_others_do() -> None:
    assert [step_kernel(update_kind) for update_kind in ("pgd-l2", "sgld")] == [
        "jboost_step_pgd_l2",
        "jboost_step_sgld",
    ]
    with pytest.raises(jboost.BadInputError, match=r"tamed has no CUDA kernel.* use --engine compile or eager"):
        step_kernel("tamed")


def test_the_command_line_offers_it(
    tamed, command, bundle, checkpoint, samples, images, labels, tmp_path, monkeypatch
) -> None:
    shown = " ".join(command("boost", "--help").stdout.split())
    assert "Update: pgd, sgld or tamed; one of an installed package; or FILE.py:NAME. [default: (pgd)]" in shown
    assert "--temperature <float> tamed: temperature of the noise. [default: (0)]" in shown
    assert "pgd: length of a step; sgld, tamed: factor of the gradient. [default: (0.1; 0.002; 0.004)]" in shown
    assert "--steps <int> Maximum number of steps per image. [default: (15)]" in shown

    base = [
        "boost",
        samples,
        "--bundle",
        bundle,
        "--engine",
        "eager",
        "--device",
        "cpu",
        "--objective",
        "logit",
        "--json",
        "-",
    ]
    how = ["--update", "tamed", "--steps", "3", "--step-size", "0.003", "--temperature", "0.05", "--seed", "9"]
    done = command(*base, *how, "--run", tmp_path / "run.npz")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert list(summary) == [*KEYS, "temperature"]
    wanted = {
        "update": "tamed",
        "steps": 3,
        "step_size": 0.003,
        "temperature": 0.05,
        "eps": None,
        "norm": None,
        "noise": None,
    }
    assert {name: summary[name] for name in wanted} == wanted
    with np.load(tmp_path / "samples.boosted.npz") as out:
        assert_same_images(
            out["arr_0"], reference(checkpoint, images, labels, steps=3, size=0.003, temperature=0.05, seed=9)
        )
    rows = settings_rows(read_run(tmp_path / "run.npz"))
    assert dict(rows)["update"] == "tamed, 3 steps of 0.003 (temperature 0.05)"
    monkeypatch.delitem(UPDATES, "tamed")  # a report may be made elsewhere
    assert settings_rows(read_run(tmp_path / "run.npz")) == rows

    plain = command(*base, "--steps", "1", "-o", tmp_path / "pgd.npz")
    summary = json.loads(plain.stdout)
    assert list(summary) == KEYS
    assert [summary[name] for name in ("update", "eps", "norm", "noise")] == ["pgd", None, "l2", None]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--update", "tamed", "--temperature", "-1"], "temperature must be a finite number of at least 0, got -1.0"),
        (["--update", "tamed", "--temperature", "nan"], "temperature must be a finite number of at least 0, got nan"),
        (["--update", "tamed", "--step-size", "0"], "step size must be a finite number above 0, got 0.0"),
        (["--update", "tamed", "--noise", "1"], "--noise belongs to SGLD; leave it out or use --update sgld"),
        (["--temperature", "1"], "--temperature belongs to TamedLangevin; add --update tamed or leave it out"),
        (["--noise", "1"], "--noise belongs to SGLD; add --update sgld or leave it out"),
        (["--preset", "released-sgld", "--eps", "1"], "--eps belongs to PGD; leave it out or use --update pgd"),
        (
            ["--update", "tame"],
            "unknown update 'tame'; choose one of pgd, sgld, tamed, or FILE.py:NAME with --trust-code",
        ),
        (["--norm", "l1"], "unknown norm 'l1'; choose one of l2, linf"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(command, bundle, samples, options, message) -> None:
    done = command("boost", samples, "--bundle", bundle, *options)
    assert (done.returncode, done.stderr) == (2, f"jboost: {message}\n")


def test_a_preset_gives_its_values(tamed) -> None:
    preset = Preset(7, 0.002, update="tamed", options={"temperature": 0.5})
    assert make_update(preset) == tamed.TamedLangevin(7, 0.002, 0.5)
    assert make_update(preset, temperature=0.1, eps=None) == tamed.TamedLangevin(7, 0.002, 0.1)
    assert make_update(preset, update="pgd") == jboost.PGD(7)
    assert make_update(Preset(3, 0.1, update="sgld", noise=0.5)) == jboost.SGLD(3, 0.1, 0.5)
    with pytest.raises(TypeError, match="no update has a field 'heat'"):
        make_update(heat=1.0)


def test_what_cannot_be_registered() -> None:
    steps, size = Annotated[int, Option(least=0)], Annotated[float, Option(least=0)]

    def define(name="other", moves=None, **members):
        values = {"steps": 1, "step_size": 0.1, "extra": 1, "seed": 1}
        annotations = {"steps": steps, "step_size": size} | members
        space = values | {"__annotations__": annotations, "moves": {"other": None} if moves is None else moves}
        register(name)(dataclass(frozen=True)(type("Other", (Update,), space)))

    before = dict(UPDATES), dict(MOVES)
    for change, why in (
        ({"name": "pgd"}, "another update has the name pgd"),
        ({"moves": {"pgd-l2": None}}, "another update has the name pgd-l2"),
        ({"name": "Other"}, "must be lower-case words"),
        ({"moves": {"other/kind": None}}, "must be lower-case words"),
        ({"extra": float}, "needs an Option"),
        ({"seed": Annotated[int, Option()]}, "needs another name"),
        ({"steps": Annotated[float, Option()]}, "a different type"),
        ({"step_size": ClassVar[float]}, "has no field step_size"),
        ({"moves": {}}, "has no moves"),
        ({"moves": {"a": None, "b": None}}, "no `kind` that chooses one"),
    ):
        with pytest.raises(ValueError, match=why):
            define(**change)
    assert before == (UPDATES, MOVES)


def test_reserved_names_are_those_of_the_command_line_and_of_summaries() -> None:
    own = {name for update in UPDATES.values() for name in update.options}
    boost = typer.main.get_command(make_app()).commands["boost"]  # type: ignore[attr-defined]
    taken = {f.name for f in fields(Summary)} | {name for name in dir(Update) if not name.startswith("_")}
    for parameter in boost.params:
        taken |= {parameter.name} | {
            word.lstrip("-").replace("-", "_") for word in (*parameter.opts, *parameter.secondary_opts)
        }
    assert {name for name in taken - own if len(name) > 1} <= RESERVED
