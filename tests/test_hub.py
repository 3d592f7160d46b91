"""Bundles on the Hub: pushed with a card, pulled as a stranger's, refused in one line; against a local endpoint."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

import children
import numpy as np
import pytest
from fake_hub import Hub, serving

import jboost
from jboost import hub as ours
from jboost.engine.bundle import Bundle, is_data
from jboost.model_card import model_card

REPO = "user/robust"


@pytest.fixture
def hub():
    return Hub()


@pytest.fixture
def run(hub, tmp_path):
    """The command line in a process of its own, with the fake Hub, and a cache and a record of trust of its own."""
    with serving(hub) as endpoint:
        environment = os.environ | {
            "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
            "JBOOST_TRUST": str(tmp_path / "trusted"),
        }  # fmt: skip
        environment.pop("HF_TOKEN", None)

        def call(*args: object, **more: str):
            return children.jboost(*args, cwd=tmp_path, environment=environment | more, first=_import_the_hub_anew)

        yield call


def _import_the_hub_anew() -> None:
    """It reads its variables when it is imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]


def upload(hub: Hub, bundle: Path, **changed: bytes) -> str:
    """Put a bundle's files on the fake Hub as they are; returns the commit."""
    files = {str(p.relative_to(bundle)): p.read_bytes() for p in bundle.rglob("*") if p.is_file()}
    return hub.commit(REPO, files | {"README.md": b"hello", "evil.py": b"raise SystemExit"} | changed)


def test_what_was_pushed_can_be_pulled_and_runs_as_the_folder_does(
    run, hub, bundle, checkpoint, samples, tmp_path
) -> None:
    done = run(
        "export",
        "--ckpt",
        checkpoint,
        "--format",
        "onnx",
        "--push",
        REPO,
        "--license",
        "mit",
        "--private",
        HF_TOKEN="hf_writer",
    )
    assert done.returncode == 0, done.stderr
    assert f"use it with: --bundle hf://{REPO}" in done.stdout
    made = Bundle(tmp_path / "bundle", trust_code=True)
    files = {a.file for a in made.config.artefacts.values()}
    assert set(hub.repos[REPO][-1]) == files | {"config.json", "README.md", ".gitattributes"}
    assert hub.private[REPO]
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert hub.repos[REPO][-1]["README.md"].decode() == card
    assert "\nlicense: mit\n" in card
    assert made.config.source["sha256"] in card
    graph = next(a for a in made.config.artefacts.values() if a.objective)
    assert f"| `{graph.file}` | fp32 | {graph.errors['grad_worst']:.1e} | {graph.errors['logits_worst']:.1e} |" in card
    # The card's own command, elsewhere: only data is downloaded, and the folder gives the same images.
    command = re.search(r"^    (jboost boost .*)$", card, re.MULTILINE)[1]
    assert command == f"jboost boost samples.npz --bundle hf://{REPO}"
    done = run(
        *shlex.split(command)[1:],
        "--engine",
        "onnx",
        "--device",
        "cpu",
        "--steps",
        2,
        JBOOST_TRUST=str(tmp_path / "other"),
    )
    assert done.returncode == 0, done.stderr
    data = {a.file for name, a in made.config.artefacts.items() if is_data(name)}
    assert set(hub.got) == data | {"config.json", "README.md"}
    with (
        np.load(samples) as given,
        jboost.load(tmp_path / "bundle", engine="onnx", device="cpu", trust_code=True) as booster,
    ):
        want = booster.boost(given["arr_0"], given["arr_1"], jboost.PGD(steps=2)).images
    with np.load(tmp_path / "samples.boosted.npz") as out:
        assert np.array_equal(out["arr_0"], want)
    # Without the network the cache serves it.
    (tmp_path / "samples.boosted.npz").unlink()
    again = ["boost", samples, "--bundle", f"hf://{REPO}", "--engine", "onnx", "--device", "cpu", "--steps", 1]
    done = run(*again, HF_HUB_OFFLINE="1", JBOOST_TRUST=str(tmp_path / "other"))
    assert done.returncode == 0, done.stderr


def test_a_pulled_bundle_is_a_stranger_s_until_it_is_trusted(run, hub, bundle, samples) -> None:
    sha = upload(hub, bundle)
    done = run("inspect", f"hf://{REPO}@{sha}")
    assert done.returncode == 0, done.stderr
    assert "forward.pt2" not in hub.got
    assert "evil.py" not in hub.got
    remedy = re.search(r"jboost trust (hf://\S+?),", done.stdout)[1]
    assert remedy == f"hf://{REPO}@{sha}"
    done = run("trust", remedy)
    assert done.returncode == 0, done.stderr
    assert "forward.pt2" in hub.got
    assert "code" in (shown := run("inspect", f"hf://{REPO}").stdout)
    assert re.search(r"code +trusted", shown)
    # Another commit is another bundle.
    config = (bundle / "config.json").read_bytes().replace(b"small_resnet8", b"small_resnet9")
    upload(hub, bundle, **{"config.json": config})
    done = run("inspect", f"hf://{REPO}")
    assert done.returncode == 2
    assert "changed after export" in done.stderr
    assert run("inspect", f"hf://{REPO}@{sha}").returncode == 0


@pytest.mark.parametrize(
    ("setting", "code", "message"),
    [
        ("absent", 2, "no such repository; check the name"),
        ("unknown revision", 2, "no such revision; name a branch, tag or commit after @"),
        ("401", 2, "no such repository, or it is private and the token is missing or wrong; .*hf auth login"),
        ("gated", 2, "the repository is gated; ask for access on its page"),
        ("no bundle", 2, "is not a jboost bundle .*jboost export --ckpt FILE --push user/robust"),
        ("offline", 1, "the Hub cannot be reached and the cache does not hold the files; check the network"),
        ("no server", 1, "the Hub cannot be reached"),
        ("bad name", 2, "write hf://user/repo or hf://user/repo@revision"),
    ],
)
def test_what_cannot_be_pulled_is_one_line(run, hub, samples, setting, code, message) -> None:
    more, name = {}, f"hf://{REPO}"
    if setting not in ("absent", "offline", "no server"):
        hub.commit(REPO, {"notes.txt": b"no bundle"})
    if setting == "unknown revision":
        name += "@v9"
    elif setting == "401":
        hub.refused[REPO] = 401, "RepoNotFound"
    elif setting == "gated":
        hub.refused[REPO] = 403, "GatedRepo"
    elif setting == "offline":
        more = {"HF_HUB_OFFLINE": "1"}
    elif setting == "no server":
        more = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    elif setting == "bad name":
        name = "hf://alone"
    done = run("inspect", name, **more)
    assert done.returncode == code, done.stderr
    assert re.search(message, done.stderr)
    assert done.stderr.count("\n") == 1


def test_a_push_that_is_refused_keeps_the_bundle_and_says_how_to_go_on(hub, bundle, tmp_path, monkeypatch) -> None:
    """Through the one seam: `push` with the library's own client, in this process."""
    import huggingface_hub

    copy = Bundle(Path(shutil.copytree(bundle, tmp_path / "bundle")), trust_code=True)
    with serving(hub) as endpoint:
        api = huggingface_hub.HfApi(endpoint=endpoint, token="hf_reader")
        monkeypatch.setattr(ours, "_library", lambda: api)
        with pytest.raises(jboost.FailureError, match="write access to the repository") as e:
            ours.push(copy, REPO)
    assert f"upload it with: hf upload {REPO} {copy.path}" in str(e.value)
    assert "\n" not in str(e.value)
    api = huggingface_hub.HfApi(endpoint="http://127.0.0.1:9", token="hf_writer")
    with pytest.raises(jboost.FailureError, match="the Hub cannot be reached"):
        ours.push(copy, REPO)


def test_the_licence_on_the_hub_is_kept(hub, bundle, tmp_path, monkeypatch) -> None:
    import huggingface_hub

    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    copy = Bundle(Path(shutil.copytree(bundle, tmp_path / "bundle")), trust_code=True)
    with serving(hub) as endpoint:
        api = huggingface_hub.HfApi(endpoint=endpoint, token="hf_writer")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(ours, "_library", lambda: api)
        ours.push(copy, REPO)
        card = hub.repos[REPO][-1]["README.md"].decode()
        assert "license:" not in card.split("---")[1]
        assert "The uploader has not stated one" in card
        hub.commit(REPO, {"README.md": card.replace("library_name", "license: cc-by-4.0\nlibrary_name").encode()})
        ours.push(copy, REPO)
    assert "\nlicense: cc-by-4.0\n" in hub.repos[REPO][-1]["README.md"].decode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--push", "alone"], "name the repository as user/repo"),
        (["--push", REPO], "there is no token for the Hub; log in with: hf auth login"),
        (["--license", "mit"], "name it with --push user/repo"),
    ],
)
def test_a_push_that_cannot_work_is_refused_before_the_export(run, checkpoint, tmp_path, options, message) -> None:
    done = run("export", "--ckpt", checkpoint, *options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "bundle").exists()


def test_without_the_library_the_message_says_what_to_install(bundle, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(jboost.BadInputError, match=r'install it: pip install "jboost\[hub\]"'):
        jboost.load(f"hf://{REPO}")


def test_names_from_a_checkpoint_do_not_end_a_cell_of_the_card(bundle) -> None:
    from dataclasses import replace

    config = replace(Bundle(bundle).config, architecture="a|b`c\nd")
    assert "| architecture | `a_b_c d` |" in model_card(config, REPO, None)
