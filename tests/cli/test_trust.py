"""A stranger's bundle, with payloads that touch a file, through the commands as a user types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from strangers import add_package, copied, poison, reissue

from jboost.cli.inspect import describe
from jboost.engine.bundle import Bundle
from jboost.engine.samples import ReadOptions

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the payload is a library, which needs gcc")


@pytest.fixture(scope="module")
def theirs(bundle, tmp_path_factory) -> Path:
    """A bundle whose forward program and compiled packages touch ``ran`` beside it; all of its hashes are right."""
    folder = tmp_path_factory.mktemp("theirs")
    out = copied(bundle, folder / "bundle")
    poison(out / "forward.pt2", "shape", folder / "ran")
    add_package(out, folder / "ran")
    return reissue(out)


@pytest.fixture(autouse=True)
def nothing_ran(theirs):
    (theirs.parent / "ran").unlink(missing_ok=True)
    yield
    (theirs.parent / "ran").unlink(missing_ok=True)


def ran(theirs: Path) -> bool:
    return (theirs.parent / "ran").exists()


def test_boost_with_no_engine_named_works_and_runs_none_of_it(jboost, theirs, samples, tmp_path) -> None:
    out = tmp_path / "out.npz"
    done = jboost("boost", samples, "--bundle", theirs, "--steps", 1, "-o", out, "--json", "-", "-b", 4)
    assert done.returncode == 0, done.stderr
    assert not ran(theirs)
    assert json.loads(done.stdout)["engine"] in ("onnx", "eager")
    assert out.exists()
    said = " ".join(done.stderr.split())
    assert "not compile: " in said
    assert "code that you have not trusted" in said
    assert f"jboost trust {theirs}" in said


def test_the_payload_is_real(jboost, theirs, samples, tmp_path) -> None:
    """What the other tests look for happens as soon as the user says so."""
    arguments = ("boost", samples, "--bundle", theirs, "--steps", 1, "-o", tmp_path / "out.npz", "-b", 4)
    jboost(*arguments, "--engine", "compile", "--trust-code")
    assert ran(theirs)


@pytest.mark.parametrize("engine", ["onnx", "eager"])
def test_engines_by_name(jboost, theirs, samples, tmp_path, engine) -> None:
    done = jboost("boost", samples, "--bundle", theirs, "--engine", engine, "--steps", 1, "-o", tmp_path / "out.npz")
    assert done.returncode == 0, done.stderr
    assert not ran(theirs)


def test_verify_checks_the_data_and_says_what_it_skipped(jboost, theirs) -> None:
    done = jboost("verify", theirs)
    assert done.returncode == 0, done.stderr
    assert not ran(theirs)
    for file in ("forward.pt2", "compile/evil.pt2"):
        assert f"{file}: not run; it is code that you have not trusted" in done.stdout
    assert "gradient.joint.16.fp32.onnx" in done.stdout
    assert f"jboost trust {theirs}" in done.stdout


def test_bench_times_the_rest_and_says_what_it_skipped(jboost, theirs) -> None:
    options = ("--rounds", 1, "--no-torch-compile", "--no-first-batch", "--dtype", "fp32", "-b", 4)
    done = jboost("bench", "--bundle", theirs, *options)
    assert done.returncode == 0, done.stderr
    assert not ran(theirs)
    assert "onnx" in done.stdout
    assert "code that you have not trusted" in done.stdout


def test_eval_builds_the_network_from_its_weights_and_says_so(jboost, theirs, samples) -> None:
    options = ("--features", theirs, "--metrics", "fid", "--bootstrap", 0, "--device", "cpu")
    done = jboost("eval", samples, samples, *options)
    assert done.returncode == 0, done.stderr
    assert not ran(theirs)
    assert "built from its weights" in done.stdout
    refused = jboost("eval", samples, samples, *options, "--trust-code")  # its forward program is poisoned
    assert refused.returncode == 2
    assert not ran(theirs)


def test_a_foreign_architecture_is_refused_and_the_remedy_is_right(
    installed, jboost, bundle, samples, tmp_path
) -> None:
    """jboost cannot build it from its weights; the bundle's author named a module, which is not imported."""
    folder = copied(bundle, tmp_path / "their bundle", architecture="antigravity:net")
    arguments = ("boost", samples, "--bundle", folder, "--steps", 1, "-o", tmp_path / "out.npz", "--engine", "eager")
    refused = jboost(*arguments)
    assert refused.returncode == 2
    assert "antigravity:net" in refused.stderr
    assert refused.stderr.count("\n") == 2  # the first line tells of the labels
    assert f"jboost trust '{folder}', or --trust-code for one run" in refused.stderr
    assert not (tmp_path / "out.npz").exists()
    for command in (("verify", folder), ("bench", "--bundle", folder, "--no-first-batch")):
        done = jboost(*command)
        assert done.returncode == 2, done.stderr
        assert "jboost trust" in done.stderr
    assert jboost(*arguments, "--trust-code").returncode == 0
    assert jboost(*arguments).returncode == 2  # it was for one run
    trusted = installed("trust", folder)
    assert trusted.returncode == 0
    assert "forward.pt2" in trusted.stdout
    assert jboost(*arguments).returncode == 0
    assert str(folder) in jboost("trust", "--list").stdout
    assert jboost("trust", folder, "--remove").returncode == 0
    assert jboost(*arguments).returncode == 2


@pytest.mark.slow
def test_compile_makes_packages_of_its_own(jboost, theirs, samples, tmp_path) -> None:
    out = tmp_path / "out.npz"
    done = jboost("boost", samples, "--bundle", theirs, "--engine", "compile", "--steps", 1, "-o", out, "-b", 4)
    assert done.returncode == 0, done.stderr
    assert "compiling the gradient of joint" in done.stderr
    assert not ran(theirs)


def test_inspect_says_whether_the_code_is_trusted(bundle, theirs) -> None:
    assert describe(bundle, ReadOptions())[1]["code"] == "trusted"
    assert f"jboost trust {theirs}" in describe(theirs, ReadOptions())[1]["code"]


def test_only_a_whole_bundle_can_be_trusted(jboost, bundle, tmp_path) -> None:
    folder = copied(bundle, tmp_path / "bundle")
    (folder / "forward.pt2").write_bytes(b"other")
    done = jboost("trust", folder)
    assert done.returncode == 2
    assert "SHA-256" in done.stderr
    assert not Bundle(folder).trusted
    assert jboost("trust").returncode == 2


def test_a_changed_file_of_a_trusted_bundle_needs_trust_again(bundle, tmp_path) -> None:
    assert Bundle(bundle).trusted
    shutil.copytree(bundle, tmp_path / "moved")
    assert Bundle(tmp_path / "moved").trusted
    poison(tmp_path / "moved" / "forward.pt2", "shape", tmp_path / "ran")
    assert not Bundle(reissue(tmp_path / "moved")).trusted
