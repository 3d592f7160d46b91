"""Files that somebody damaged or forged: every command ends as it may, see `fuzz_oracle`.

A slice runs with the suite. ``make fuzz`` runs more of it, with other draws each time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from format_cases import FORMATS
from fuzz_mutations import (
    column_changes,
    damaged,
    damages,
    json_changes,
    member_changes,
    recolumned,
    retarred,
    rewritten,
    rezipped,
    tar_changes,
)
from fuzz_oracle import complaint, run
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from jboost.engine import bundle as bundles

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits memory and waits for processes as Linux does")

EXAMPLES = int(os.environ.get("JBOOST_FUZZ", 12))  # of each kind
many = settings(
    max_examples=EXAMPLES, deadline=None, derandomize="JBOOST_FUZZ" not in os.environ, database=None,
    phases=(Phase.generate, Phase.shrink), suppress_health_check=list(HealthCheck),
)  # fmt: skip
ONE_STEP = ("--engine", "onnx", "--steps", "1", "-b", "4", "--json", "summary.json")


def check(arguments: list[str], put: Callable[[Path], object]) -> None:
    """Run a command in a fresh folder, once `put` has made its files there."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "here"
        folder.mkdir()
        put(folder)
        code, printed = run(arguments, folder)
        wrong = complaint(code, printed)
        assert wrong is None, f"{wrong}\njboost {' '.join(arguments)}\n{printed[-2000:]}"
        assert [path.name for path in folder.parent.iterdir()] == ["here"], "something was written beside its folder"


@pytest.fixture(scope="module")
def npz() -> bytes:
    made = io.BytesIO()
    rng = np.random.default_rng(0)
    np.savez(made, rng.integers(0, 256, (6, 16, 16, 3), np.uint8), np.arange(6) % 5)
    return made.getvalue()


@pytest.fixture(scope="module")
def png_zip() -> bytes:
    made = io.BytesIO()
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(made, "w") as archive:
        for i in range(4):
            picture = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(picture, "png")
            archive.writestr(f"{i:03d}.png", picture.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": [[f"{i:03d}.png", i] for i in range(4)]}))
    return made.getvalue()


@pytest.fixture(scope="module")
def boosted(bundle, npz, tmp_path_factory) -> Path:
    """A folder with a sample set, its boosted set and the run file."""
    folder = tmp_path_factory.mktemp("boosted")
    (folder / "samples.npz").write_bytes(npz)
    arguments = ["boost", "samples.npz", "--bundle", str(bundle), "--run", "run.npz", *ONE_STEP]
    code, printed = run(arguments, folder)
    assert code == 0, printed
    return folder


def test_the_oracle_complains(tmp_path) -> None:
    """Of a traceback, of silence, of a signal; not of a good error."""
    assert complaint(2, "jboost: x is missing; make it with: y\n") is None
    assert complaint(0, "done\n") is None
    for code, printed in (
        (2, ""),
        (1, "jboost: a\njboost: b"),
        (1, "jboost: this is a bug"),
        (0, "Traceback"),
        (-11, ""),
        (3, ""),
    ):
        assert complaint(code, printed) is not None
    code, printed = run(["inspect", "nothing.npz"], tmp_path)
    assert (code, printed.count("\n")) == (2, 1)


@many
@given(changes=damages)
def test_an_npz_file_damaged_anywhere(bundle, npz, changes) -> None:
    check(
        ["boost", "x.npz", "--bundle", str(bundle), *ONE_STEP],
        lambda folder: (folder / "x.npz").write_bytes(damaged(npz, changes)),
    )


@many
@given(change=member_changes)
def test_an_npz_file_whose_members_lie(bundle, npz, change) -> None:
    check(
        ["boost", "x.npz", "--bundle", str(bundle), *ONE_STEP],
        lambda folder: (folder / "x.npz").write_bytes(rezipped(npz, change)),
    )


@many
@given(change=member_changes, output=st.sampled_from(("out", "out.zip", "out.npz")))
def test_a_zip_of_pngs_whose_members_lie(bundle, png_zip, change, output) -> None:
    check(
        ["boost", "x.zip", "--bundle", str(bundle), "-o", output, *ONE_STEP],
        lambda folder: (folder / "x.zip").write_bytes(rezipped(png_zip, change)),
    )


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> dict[str, bytes]:
    """A set in each format that is one file of its own kind."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 16, 16, 3), np.uint8), np.arange(6) % 5
    folder = tmp_path_factory.mktemp("formats")
    return {
        path.name: path.read_bytes()
        for path in (FORMATS[kind](folder, images, labels) for kind in ("npy", "pt", "parquet", "webdataset"))
    }


@many
@given(
    changes=damages,
    name=st.sampled_from(("set.npy", "set.pt", "set.parquet", "set.tar")),
    command=st.sampled_from(("boost", "inspect")),
)
def test_a_set_of_another_format_damaged_anywhere(bundle, others, changes, name, command) -> None:
    arguments = ["boost", name, "--bundle", str(bundle), *ONE_STEP] if command == "boost" else ["inspect", name]
    check(arguments, lambda folder: (folder / name).write_bytes(damaged(others[name], changes)))


@many
@given(change=member_changes)
def test_a_file_of_tensors_whose_members_lie(bundle, others, change) -> None:
    arguments = ["boost", "set.pt", "--bundle", str(bundle), *ONE_STEP]
    check(arguments, lambda folder: (folder / "set.pt").write_bytes(rezipped(others["set.pt"], change)))


@many
@given(change=tar_changes, output=st.sampled_from(("out", "out.tar", "out.parquet")))
def test_a_shard_whose_members_lie(bundle, others, change, output) -> None:
    arguments = ["boost", "set.tar", "--bundle", str(bundle), "-o", output, *ONE_STEP]
    check(arguments, lambda folder: (folder / "set.tar").write_bytes(retarred(others["set.tar"], change)))


@many
@given(change=column_changes)
def test_a_parquet_file_whose_columns_lie(bundle, others, change) -> None:
    arguments = ["boost", "set.parquet", "--bundle", str(bundle), *ONE_STEP]
    check(arguments, lambda folder: (folder / "set.parquet").write_bytes(recolumned(others["set.parquet"], change)))


@many
@given(change=json_changes, command=st.sampled_from(("boost", "inspect")))
def test_a_bundle_whose_author_made_its_sums_right(bundle, npz, change, command) -> None:
    content = json.loads((bundle / "config.json").read_text())
    content.pop("digest")

    def put(folder: Path) -> None:
        shutil.copytree(bundle, folder / "b")
        changed = rewritten(content, change)
        sums = {"digest": bundles._digest(changed)} if isinstance(changed, dict) else {}
        (folder / "b" / "config.json").write_text(json.dumps(changed | sums))
        (folder / "x.npz").write_bytes(npz)

    arguments = ["boost", "x.npz", "--bundle", "b", *ONE_STEP] if command == "boost" else ["inspect", "b"]
    check(arguments, put)


@many
@given(changes=damages)
def test_an_onnx_graph_damaged_with_its_sum_made_right(bundle, npz, changes) -> None:
    content = json.loads((bundle / "config.json").read_text())
    content.pop("digest")
    name = next(
        name for name, entry in content["artefacts"].items() if entry["objective"] and entry["file"].endswith(".onnx")
    )

    def put(folder: Path) -> None:
        shutil.copytree(bundle, folder / "b")
        entry = content["artefacts"][name]
        file = folder / "b" / entry["file"]
        graph = damaged(file.read_bytes(), changes)
        file.write_bytes(graph)
        forged = entry | {"sha256": hashlib.sha256(graph).hexdigest(), "size": len(graph)}
        changed = content | {"artefacts": content["artefacts"] | {name: forged}}
        (folder / "b" / "config.json").write_text(json.dumps(changed | {"digest": bundles._digest(changed)}))
        (folder / "x.npz").write_bytes(npz)

    check(["boost", "x.npz", "--bundle", "b", *ONE_STEP], put)


@many
@given(changes=damages)
def test_a_safetensors_checkpoint_damaged_anywhere(checkpoint, changes) -> None:
    content = checkpoint.read_bytes()
    check(
        ["inspect", "x.safetensors"], lambda folder: (folder / "x.safetensors").write_bytes(damaged(content, changes))
    )


@many
@given(change=json_changes)
def test_a_safetensors_header_that_lies(checkpoint, change) -> None:
    content = checkpoint.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])

    def put(folder: Path) -> None:
        text = json.dumps(rewritten(header, change)).encode()
        (folder / "x.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])

    check(["inspect", "x.safetensors"], put)


@pytest.fixture(scope="module")
def pickled() -> bytes:
    made = io.BytesIO()
    torch.manual_seed(0)
    torch.save({"model": torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 5)).state_dict()}, made)
    return made.getvalue()


@many
@given(change=st.one_of(damages, member_changes))
def test_a_pickled_checkpoint_damaged_anywhere(pickled, change) -> None:
    content = damaged(pickled, change) if isinstance(change, list) else rezipped(pickled, change)
    check(["inspect", "x.pt"], lambda folder: (folder / "x.pt").write_bytes(content))


@many
@given(change=st.one_of(damages, member_changes))
def test_a_run_file_damaged_anywhere(boosted, change) -> None:
    run_file = (boosted / "run.npz").read_bytes()

    def put(folder: Path) -> None:
        shutil.copytree(boosted, folder, dirs_exist_ok=True)
        content = damaged(run_file, change) if isinstance(change, list) else rezipped(run_file, change)
        (folder / "run.npz").write_bytes(content)

    check(["report", "run.npz", "-o", "page.html"], put)
