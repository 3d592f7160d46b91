"""The onnx engine: the same images as eager, without torch; graphs that are verified, deterministic and refused when wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import graph_models
import numpy as np
import onnx
import pytest
import torch
from closeness import assert_same_images

import jboost
from jboost.engine.backends.onnx.cpu import OnnxRunner
from jboost.engine.backends.onnx.graphs import artefact_name
from jboost.engine.backends.registry import ENGINES, open_engine
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle, artefact_of
from jboost.engine.method.objectives import OBJECTIVES
from jboost.engine.system.gpu import Driver
from jboost.export.bundle import export_bundle
from jboost.export.verify import verify_bundle


@pytest.fixture(scope="module")
def whole(checkpoint, tmp_path_factory) -> Path:
    """A bundle with every objective, and joint in fp16 as well."""
    out = tmp_path_factory.mktemp("onnx") / "bundle"
    export_bundle(checkpoint, out, objectives=tuple(OBJECTIVES))
    return out


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("update", [jboost.PGD(4, 0.2), jboost.PGD(4, 0.2, eps=0.3), jboost.SGLD(4, 0.005, noise=0.01)])
def test_images_are_those_of_eager(whole, images, labels, objective, update) -> None:
    results = {}
    for engine in ("eager", "onnx"):
        with jboost.load(whole, engine=engine, device="cpu", batch_size=9) as booster:
            results[engine] = booster.boost(images, labels, update, objective=objective)
    assert_same_images(results["onnx"].images, results["eager"].images)
    for key in ("realness_before", "realness_after"):
        assert getattr(results["onnx"].summary, key) == pytest.approx(getattr(results["eager"].summary, key), rel=1e-3)


def test_results_do_not_depend_on_the_batch_size(whole, images, labels) -> None:
    runs = []
    for batch in (1, 7, 32):
        with jboost.load(whole, engine="onnx", batch_size=batch) as booster:
            runs.append(booster.boost(images, labels, jboost.PGD(4, 0.2)).images.astype(int))
    assert max(np.abs(runs[0] - r).max() for r in runs) <= 1
    assert max((runs[0] != r).mean() for r in runs) < 1e-3


def test_class_logit_survives_the_next_call(whole, images, labels) -> None:
    with OnnxRunner(Bundle(whole), RunRequest("joint", 3.0, 16)) as runner:
        x = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
        first = runner.gradient(x, labels)
        kept = first.class_logit.copy()
        runner.gradient(1 - x, labels)
        np.testing.assert_array_equal(first.class_logit, kept)


def test_fp16_points_the_same_way_and_falls_back_to_fp32(half, images, labels) -> None:
    x = images.transpose(0, 3, 1, 2).astype(np.float32) / 255
    runs = {}
    for dtype in ("fp32", "fp16"):
        with OnnxRunner(Bundle(half), RunRequest("joint", 3.0, 16, dtype=dtype)) as runner:
            runs[dtype] = torch.from_numpy(runner.gradient(x, labels).grad.copy()).flatten(1)
            if dtype == "fp16":
                float32 = torch.from_numpy(runner.gradient(x, labels, in_float32=True).grad).flatten(1)
    assert torch.cosine_similarity(runs["fp32"], runs["fp16"]).min() > 0.99
    torch.testing.assert_close(float32, runs["fp32"], rtol=1e-4, atol=1e-6)


def test_boosting_needs_numpy_typer_and_onnxruntime_alone(whole, samples, tmp_path) -> None:
    # Everything else that jboost depends on cannot be imported in this process.
    code = """
import sys

class Absent:
    names = {"torch", "onnx", "onnxscript", "safetensors", "PIL", "array_api_compat", "sklearn", "scipy", "jax", "cupy"}

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is kept from this test", name=name)

sys.meta_path.insert(0, Absent())
from jboost.cli.main import main
main(sys.argv[1:])
"""
    arguments = ["boost", samples, "--bundle", whole, "--engine", "onnx", "-o", tmp_path / "out.npz", "--steps", "3"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with jboost.load(whole, engine="eager", device="cpu") as booster, np.load(samples) as data:
        want = booster.boost(data["arr_0"], data["arr_1"], jboost.PGD(3)).images
    with np.load(tmp_path / "out.npz") as out:
        assert np.abs(out["arr_0"].astype(int) - want.astype(int)).max() <= 1


def test_figures_are_kept_and_verify_repeats_them(whole, installed) -> None:
    config = Bundle(whole).config
    for objective in OBJECTIVES:
        errors = config.artefacts[artefact_name(objective, "fp32", 16)].errors
        assert errors["grad_worst"] < 1e-2
        assert errors["grad_median"] < 1e-4
    done = installed("verify", whole)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(".onnx") == len(OBJECTIVES) + 1  # and the forward pass


def test_verify_finds_a_graph_that_computes_something_else(whole, tmp_path) -> None:
    """A wrong graph with the right hashes: what only a comparison with autograd can notice."""
    copy = Path(shutil.copytree(whole, tmp_path / "bundle"))
    config = Bundle(copy).config
    files = {config.artefacts[artefact_name(o, "fp32", 16)].file for o in ("ce", "bce")}
    ce, bce = (copy / name for name in sorted(files, reverse=True))
    ce.write_bytes(bce.read_bytes())
    name = artefact_name("ce", "fp32", 16)
    forged = artefact_of(copy, ce.name, objective="ce", resolution=16)
    (copy / "config.json").write_text(replace(config, artefacts=config.artefacts | {name: forged}).to_json())
    with pytest.raises(jboost.FailureError, match="does not match autograd"):
        verify_bundle(Bundle(copy, trust_code=True))


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(checkpoint, half, tmp_path) -> None:
    export_bundle(checkpoint, tmp_path / "again", objectives=("joint",), dtypes=("fp16",))
    graphs = sorted(p.name for p in half.glob("*.fp16.onnx*"))
    assert len(graphs) == 3  # gradient, forward pass, and their weights
    for name in graphs:
        assert (half / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_graphs_share_their_weights_and_say_what_they_are(whole) -> None:
    assert len(list(whole.glob("*.data"))) == 1
    model = onnx.load(whole / "gradient.logit.16.fp32.onnx", load_external_data=False)
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert (said["objective"], said["dtype"]) == ("logit", "fp32")
    assert "checkpoint_sha256" in said


def test_one_flipped_byte_of_a_graph_or_its_weights_is_refused(half, tmp_path) -> None:
    copy = Path(shutil.copytree(half, tmp_path / "bundle"))
    for file in copy.glob("gradient.joint.16.fp32.onnx*"):
        content = file.read_bytes()
        file.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
        with pytest.raises(jboost.BadInputError, match="SHA-256"):
            OnnxRunner(Bundle(copy), RunRequest("joint", 3.0, 16))
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"objective": "logit"}, "--objective logit"),
        ({"dtype": "bf16"}, "use --engine compile or eager, or --dtype fp16"),
        ({"l0": 1.0}, "--engine eager"),
        ({"device": "cuda"}, "NVIDIA"),
        ({"device": "tpu"}, "use auto, cpu, cuda or cuda:N"),
    ],
)
def test_what_the_bundle_lacks_is_named(half, options, remedy, monkeypatch) -> None:
    monkeypatch.setattr(
        "jboost.engine.backends.onnx.graphs.find_driver", lambda: Driver(None, None, (), "no NVIDIA driver was found")
    )
    with pytest.raises(jboost.BadInputError, match=remedy) as e:
        open_engine(ENGINES["onnx"], Bundle(half), replace(RunRequest("joint", 3.0, 16), **options))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--format", "tflite"], "onnx"),
        (["--dtype", "bf16"], "fp16"),
        (["--dtype", "int8"], "fp32"),
        (["--objective", "jiont"], "ce-bce"),
        (["--opset", "3"], "opset"),
    ],
)
def test_bad_export_options_leave_no_bundle(jboost, checkpoint, tmp_path, arguments, remedy) -> None:
    done = jboost("export", "--ckpt", checkpoint, "-o", tmp_path / "b", *arguments)
    assert done.returncode == 2, done.stderr
    assert remedy in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_inspect_lists_the_graphs_once(jboost, whole) -> None:
    facts = json.loads(jboost("inspect", whole, "--json").stdout)
    assert sum(key.endswith(".data") for key in facts) == 1
    assert sum(key.endswith(".onnx") for key in facts) == len(OBJECTIVES) + 1  # and the forward pass


@pytest.mark.slow
@pytest.mark.parametrize("network", ["TinyConvNeXt", "TinyViT"])
def test_a_factorys_network_goes_all_the_way(jboost, tmp_path, images, labels, network) -> None:
    models = Path(graph_models.__file__).parent
    (tmp_path / "nets.py").write_text(
        f"import sys\nsys.path.insert(0, {str(models)!r})\nfrom graph_models import {network}\n\n"
        f"def build(num_classes):\n    return {network}(classes=num_classes)\n"
    )
    torch.manual_seed(0)
    torch.save(getattr(graph_models, network)(classes=5).state_dict(), tmp_path / "net.pt")
    np.savez(tmp_path / "s.npz", images, labels)
    options = [
        "--ckpt",
        "net.pt",
        "--arch",
        "nets:build",
        "--num-classes",
        "5",
        "--resolution",
        "16",
        "--normalize",
        "none",
    ]
    exported = jboost("export", *options, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    boosted = {}
    for engine in ("eager", "onnx"):
        done = jboost("boost", "s.npz", "--engine", engine, "--steps", "3", "-o", f"{engine}.npz", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        with np.load(tmp_path / f"{engine}.npz") as out:
            boosted[engine] = out["arr_0"].astype(int)
    assert np.abs(boosted["eager"] - boosted["onnx"]).max() <= 1
    assert (boosted["eager"] != images).any()
