"""Objectives and updates of a user's own: installed or named by file, through export and boost, and what is refused."""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
from pathlib import Path

import children
import numpy as np
import pytest
import torch
from closeness import assert_same_images
from own_package import HINGE, MARGIN, UPDATE, install, write_files

import jboost
from jboost.engine.backends.compiled.packages import step_name
from jboost.engine.bundle import Bundle
from jboost.engine.method import plugins
from jboost.engine.method.objectives import LABEL_FREE, NEEDS_L0, OBJECTIVES, TYPED
from jboost.engine.method.plugins import find_objective, find_update_name
from jboost.engine.method.settings import Settings
from jboost.engine.method.updates import MOVES, UPDATES
from jboost.engine.results.identity import run_identity
from jboost.engine.results.run_file import read_run
from jboost.export.checkpoints.load import load_checkpoint
from jboost.report.rows import settings_rows

L0 = 3.0  # of the checkpoint


@pytest.fixture
def fresh(monkeypatch):
    """What a test registers is forgotten afterwards."""
    before = [(table, dict(table)) for table in (OBJECTIVES, TYPED, UPDATES, MOVES, plugins._updates)]
    kept = [(names, set(names)) for names in (NEEDS_L0, LABEL_FREE)]
    modules = set(sys.modules)
    yield
    for table, was in before:
        table.clear()
        table.update(was)
    for names, had in kept:
        names &= had
        names |= had
    for name in set(sys.modules) - modules:
        if name.startswith(("jboost_own_", "own_losses", "helper")):
            del sys.modules[name]
    plugins._check.cache_clear()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return install(tmp_path_factory.mktemp("site"))


@pytest.fixture
def work(tmp_path):
    write_files(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def exported(site, checkpoint, tmp_path_factory) -> Path:
    """A bundle with a graph of the installed objective and one of a file's, made by the command."""
    folder = tmp_path_factory.mktemp("exported")
    write_files(folder)
    done = command(folder, site)(
        "export", "--ckpt", checkpoint, "--objective", "margin,loss.py:hinge", "--trust-code", "-o", folder / "bundle"
    )
    assert done.returncode == 0, done.stderr
    return folder / "bundle"


def command(cwd: Path, site: Path | None):
    """The command line in a process of its own, with or without the distribution installed."""
    environment = os.environ | {"PYTHONPATH": str(site or "")}
    return functools.partial(children.jboost, cwd=cwd, environment=environment)


def by_hand(checkpoint, images, labels, loss, *, steps=3, size=0.3) -> np.ndarray:
    """PGD's published formula (algorithm 1) in float64 with any loss [B]."""
    model = load_checkpoint(checkpoint).model.double()
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255, torch.from_numpy(labels)
    for _ in range(steps):
        x = x.requires_grad_()
        (grad,) = torch.autograd.grad(loss(model(x), y).sum(), x)
        norm = grad.flatten(1).norm(dim=1).clamp_min(1e-30)
        x = (x.detach() - size * grad / norm[:, None, None, None]).clamp(0, 1)
    return (x * 255).round().byte().permute(0, 2, 3, 1).numpy()


LOSSES = {
    "margin": lambda f, y: torch.logsumexp(f, 1) - 2 * f.gather(1, y[:, None])[:, 0],
    "loss.py:hinge": lambda f, y: 0.5 * torch.relu(L0 + 4 - f.gather(1, y[:, None])[:, 0]),
}


@pytest.mark.parametrize("objective", LOSSES)
@pytest.mark.parametrize("engine", ["onnx", "eager"])
def test_it_is_exported_run_and_reported_like_ours(
    exported, site, work, checkpoint, samples, images, labels, objective, engine
) -> None:
    done = command(work, site)(
        "boost", samples, "--bundle", exported, "--objective", objective, "--trust-code", "--engine", engine, "--device", "cpu",
        "--steps", 3, "--step-size", 0.3, "--no-early-stop", "--json", "-", "--run", work / "run.npz",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    name, _, digest = summary["objective"].partition("@")
    assert name == objective.split(":")[-1]
    assert len(digest) == 8
    with np.load(work / "samples.boosted.npz") as out:
        assert_same_images(out["arr_0"], by_hand(checkpoint, images, labels, LOSSES[objective]))
    assert summary["objective"] in dict(settings_rows(read_run(work / "run.npz")))["objective"]


def test_its_figures_are_in_the_manifest_and_verify_finds_it(exported, site, work) -> None:
    config = Bundle(exported).config
    named = {a.objective: a.errors["grad_worst"] for a in config.artefacts.values() if a.objective is not None}
    assert sorted(name.partition("@")[0] for name in named) == ["hinge", "margin"]
    assert max(named.values()) < 1e-2
    done = command(work, site)("verify", exported, "--objective", "loss.py:hinge", "--trust-code")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(".onnx ") == 3
    # Without them each is named in one line, and the remedy for the file is the command above.
    done = command(work, None)("verify", exported)
    assert done.returncode == 2
    assert "is not installed here" in done.stderr
    assert "--objective FILE.py:margin --trust-code" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_changed_function_is_not_served_the_old_graph(exported, site, work, samples) -> None:
    run = command(work, site)
    base = ["boost", samples, "--bundle", exported, "--engine", "onnx", "--device", "cpu", "--steps", 1, "--objective"]
    assert run(*base, "loss.py:hinge", "--trust-code").returncode == 0
    (work / "samples.boosted.npz").unlink()
    (work / "loss.py").write_text(HINGE.replace("l0 + 4", "l0 + 5"))
    done = run(*base, "loss.py:hinge", "--trust-code")
    assert done.returncode == 2
    assert "has no onnx graph for objective hinge@" in done.stderr
    assert "(it has hinge@" in done.stderr
    assert "the source has changed since)" in done.stderr
    assert "--objective loss.py:hinge --trust-code" in done.stderr
    other = install(work / "site", losses=MARGIN.replace("2 * f_c", "3 * f_c"))
    done = command(work, other)(*base, "margin")
    assert done.returncode == 2
    assert "(it has margin@" in done.stderr


def test_a_file_needs_trust_and_loses_it_when_its_text_changes(
    exported, work, checkpoint, samples, monkeypatch
) -> None:
    monkeypatch.setenv("JBOOST_TRUST", str(work / "trusted"))
    run = command(work, None)
    base = [
        "boost",
        samples,
        "--bundle",
        exported,
        "--engine",
        "onnx",
        "--device",
        "cpu",
        "--steps",
        1,
        "--objective",
        "loss.py:hinge",
    ]
    done = run(*base)
    assert done.returncode == 2
    assert "loss.py is code, which would run as you" in done.stderr
    assert done.stderr.count("\n") == 1
    remedy = done.stderr.split("author: ")[1].split(",")[0]
    assert remedy == "jboost trust loss.py"
    assert run(*shlex.split(remedy)[1:]).returncode == 0
    assert run(*base).returncode == 0
    assert "loss.py" in run("trust", "--list").stdout
    (work / "loss.py").write_text(HINGE + "# changed\n")
    assert "code, which would run as you" in run(*base).stderr
    for option in ("--objective", "--update"):
        done = run(
            "export",
            "--ckpt",
            checkpoint,
            "-o",
            work / "refused",
            option,
            f"{'loss.py:hinge' if option == '--objective' else 'update.py:SignDescent'}",
        )
        assert done.returncode == 2
        assert "jboost trust" in done.stderr


@pytest.mark.parametrize("update", ["sign", "update.py:SignDescent"])
def test_an_update_of_one_s_own_runs_and_has_its_options(
    exported, site, work, checkpoint, samples, images, labels, update
) -> None:
    run = command(work, site)
    base = [
        "boost",
        samples,
        "--bundle",
        exported,
        "--objective",
        "logit",
        "--engine",
        "eager",
        "--device",
        "cpu",
        "--no-early-stop",
    ]
    done = run(
        *base, "--update", update, "--steps", 2, "--step-size", 0.02, "--reach", 2, "--trust-code", "--json", "-"
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["update"], summary["reach"], summary["step_size"]) == ("sign", 2.0, 0.02)
    model = load_checkpoint(checkpoint).model
    x, y = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)
    for _ in range(2):
        x = x.requires_grad_()
        (grad,) = torch.autograd.grad(-model(x).gather(1, y[:, None]).sum(), x)
        x = x.detach() - 0.02 * grad.sign()
    want = (x.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    with np.load(work / "samples.boosted.npz") as out:
        assert (np.abs(out["arr_0"].astype(int) - want) <= 1).mean() > 0.999  # a sign near zero may flip
    if update != "sign":
        done = run(*base, "--update", update)
        assert done.returncode == 2
        assert "jboost trust update.py" in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mean", r"returns shape \[\] for logits \[6, 10\]; it must return one loss per image.*without a mean or sum"),
        ("wide", r"returns shape \[6, 10\]"),
        ("centred", "mixes images"),
        ("normed", "mixes images"),
        ("nan", "returns NaN or infinity"),
        ("constant", "does not depend on the logits differentiably"),
        ("random", "is random"),
        ("broken", "fails on logits .*AttributeError"),
        ("number", "is a int, not a function"),
        ("absent", "the file has no absent"),
    ],
)
def test_what_is_no_objective_is_refused_in_one_line(fresh, work, name, message) -> None:
    with pytest.raises(jboost.BadInputError, match=message) as e:
        find_objective(f"{work}/loss.py:{name}", trust_code=True)
    assert "\n" not in str(e.value)


def test_l0_and_labels_are_needed_where_they_change_the_loss(fresh, work) -> None:
    (work / "kinds.py").write_text(
        "import torch\n"
        "def free(f, y, l0): return -f.logsumexp(1)\n"
        "def far(f, y, l0): return torch.relu(f.gather(1, y[:, None])[:, 0] + l0 - 1e6) + f.sum(1)\n"
        "def seventh(f, y, l0): return -f[:, 200] + f.gather(1, y[:, None])[:, 0]\n"
    )
    free, far, seventh = (find_objective(f"{work}/kinds.py:{n}", trust_code=True) for n in ("free", "far", "seventh"))
    assert {name for name in (free, far, seventh) if name in LABEL_FREE} == {free}
    assert {name for name in (free, far, seventh) if name in NEEDS_L0} == {far}  # an idle term counts
    with pytest.raises(jboost.BadInputError, match=r"fails on logits \[6, 5\]"):
        plugins.checked_objective(seventh, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('two\\nlines')", "cannot be imported (RuntimeError: two lines)"),
        ("import sys; sys.exit(0)", "cannot be imported (SystemExit: 0)"),
        ("import nowhere_at_all", "cannot be imported (ModuleNotFoundError"),
        ("def f(:", "cannot be imported (SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_imported(fresh, work, text, message) -> None:
    (work / "bad.py").write_text(text)
    with pytest.raises(jboost.BadInputError) as e:
        find_objective(f"{work}/bad.py:f", trust_code=True)
    assert message in str(e.value)
    assert "\n" not in str(e.value)
    with pytest.raises(jboost.BadInputError, match="cannot be read"):
        find_objective(f"{work}/none.py:f", trust_code=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("x - how.step_size * namespace(x, grad).sign(grad)", "x[..., :1]"), "must return float32 of the shape of x"),
        (("sign(grad)", "sign(grad - grad.mean())"), "mixes images"),
        (("sign(grad)", "sine(grad)"), "fails on numpy arrays"),
        (('@register("sign")\n', ""), r'is not registered; write @register\("name"\)'),
        (("class SignDescent(Update)", "class SignDescent"), "cannot be imported|is not an update"),
    ],
)
def test_what_is_no_update_is_refused_in_one_line(fresh, work, change, message) -> None:
    (work / "other.py").write_text(UPDATE.replace(*change))
    with pytest.raises(jboost.BadInputError, match=message) as e:
        find_update_name(f"{work}/other.py:SignDescent", trust_code=True)
    assert "\n" not in str(e.value)
    assert change[0].startswith("@") or "sign" not in UPDATES  # nothing is left that a later run would take


def test_two_packages_with_one_name(fresh, tmp_path, monkeypatch) -> None:
    for name in ("own-losses", "other-losses"):
        monkeypatch.syspath_prepend(str(install(tmp_path / name, name=name)))
    with pytest.raises(jboost.BadInputError, match="two installed packages provide 'margin'"):
        find_objective("margin")


def test_from_python(fresh, work, bundle, images, labels) -> None:
    text = f"{work}/loss.py:hinge"
    how = {"bundle": bundle, "engine": "eager", "device": "cpu", "steps": 1, "early_stop": False}
    with pytest.raises(jboost.BadInputError, match="is code, which would run as you"):
        jboost.boost(images[:2], labels[:2], objective=text, **how)
    got = jboost.boost(images[:2], labels[:2], objective=text, trust_code=True, **how)
    assert not np.array_equal(got, images[:2])
    with pytest.raises(jboost.BadInputError, match=r"unknown objective 'edge'; choose one of logit.*FILE.py:NAME"):
        jboost.boost(images[:2], labels[:2], objective="edge", **how)


def test_compiled_steps_and_unfinished_runs_belong_to_one_version_of_an_update(fresh, work) -> None:
    text = f"{work}/update.py:SignDescent"
    update = UPDATES[find_update_name(text, trust_code=True)]()
    settings = Settings(update, "logit", None, early_stop=False, seed=0)

    def identity():
        return run_identity(settings, fingerprint="f", images=3, bundle="b", engine="eager", dtype="fp32")["update"]

    before = step_name("sign", 16, "cpu"), identity()
    assert before[0].startswith("compile/cpu/step/sign@")
    assert step_name("pgd-l2", 16, "cpu") == "compile/cpu/step/pgd-l2/16"
    (work / "update.py").write_text(UPDATE.replace("x - how", "x - 2 * how"))
    after = step_name("sign", 16, "cpu"), identity()
    assert all(a != b for a, b in zip(before, after, strict=True))
