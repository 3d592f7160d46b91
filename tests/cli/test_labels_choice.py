"""``--labels`` through the command and the Python API: which classes are climbed, which labels are written, resumes and shards."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_cases import jboost_in_child

import jboost as api
from jboost.engine.backends.array_runner import to_float
from jboost.engine.method.settings import PRESETS
from jboost.engine.results.run_file import read_run
from jboost.engine.samples import open_samples
from jboost.export.checkpoints.load import load_checkpoint

HOW = ("--no-early-stop", "--steps", 3, "--step-size", 0.2, "--device", "cpu")
UPDATE = api.PGD(3, 0.2)
_PRESET = ("--preset", "bigroc-sngan")


@pytest.fixture(scope="module")
def by_hand(checkpoint, images) -> dict[str, np.ndarray]:
    """Predictions and debiased labels by PyTorch, numpy and BIGROC's formula."""
    with torch.no_grad():
        f = load_checkpoint(checkpoint).model(torch.from_numpy(to_float(images))).double().numpy()
    found = {"predicted": f.argmax(1), "debiased": (f + 1 - f.mean(0)).argmax(1)}
    assert (found["predicted"] != found["debiased"]).any()
    return found


@pytest.fixture
def unlabelled(tmp_path, images) -> Path:
    path = tmp_path / "unlabelled.npz"
    np.savez(path, images)
    return path


def images_of(path: Path) -> np.ndarray:
    with np.load(path) as archive:
        return archive["arr_0"]


@pytest.mark.parametrize("engine", ["eager", "onnx"])
@pytest.mark.parametrize("choice", ["predicted", "debiased"])
def test_the_classes_are_those_by_hand_in_each_engine_and_batch_size(
    bundle, samples, unlabelled, images, labels, by_hand, tmp_path, engine, choice
) -> None:
    with api.load(bundle, engine=engine, device="cpu", batch_size=8) as b:
        want = b.boost(images, by_hand[choice], UPDATE, early_stop=False).images
        given = b.boost(images, labels, UPDATE, early_stop=False).images
        by_name = b.boost(images, choice, UPDATE, early_stop=False)
    assert (want != given).any()
    np.testing.assert_array_equal(by_name.images, want)
    assert (by_name.summary.labels, by_name.summary.accuracy_before) == (choice, None)
    for source, batch_size in ((samples, 8), (unlabelled, 5)):
        done = jboost_in_child(
            tmp_path, "boost", source, "--bundle", bundle, "--engine", engine, "-b", batch_size, *HOW, "--labels", choice,
            "-o", "out.npz", "--run", "run.npz", "--json", "summary.json",
        )  # fmt: skip
        assert done.code == 0, done.said
        off = np.abs(images_of(tmp_path / "out.npz").astype(int) - want)
        assert off.max() <= (batch_size != 8)  # a last bit of a gradient may turn a rounding
        assert (off > 0).mean() < 0.005
        # The output keeps the input's labels, if there are any, and never holds the classes that were climbed.
        kept = open_samples(tmp_path / "out.npz").labels
        assert kept is None if source == unlabelled else (kept == labels).all()
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert (summary["labels"], summary["accuracy_after"]) == (choice, None)
        assert read_run(tmp_path / "run.npz").summary["labels"] == choice
        assert f"classes {choice}" in done.said
        assert (f"--labels {choice} does not use the labels of" in done.said) == (source == samples)


def test_given_is_the_default_and_needs_labels(bundle, samples, unlabelled, tmp_path) -> None:
    command = ("--bundle", bundle, "--engine", "onnx", "-b", 8, *HOW)
    for out, *more in (("a.npz",), ("b.npz", "--labels", "given")):
        assert jboost_in_child(tmp_path, "boost", samples, "-o", out, *command, *more).code == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    for more in ((), ("-o", "parts", "--shards", 2)):
        refused = jboost_in_child(tmp_path, "boost", unlabelled, *command, "--labels", "given", *more)
        assert refused.code == (1 if more else 2), refused.said
        assert "has no labels, but --labels given takes them; give --labels predicted or debiased" in refused.said
    assert not list(tmp_path.glob("unlabelled.boosted*"))
    refused = jboost_in_child(tmp_path, "boost", samples, *command, "--labels", "predicted", "--objective", "energy")
    assert refused.code == 2
    assert "the objective energy uses no labels; leave out --labels predicted" in refused.said


@pytest.mark.parametrize("first", ["debiased", None])
def test_a_resumed_run_takes_the_same_labels(bundle, samples, by_hand, images, tmp_path, first) -> None:
    def kill(now):
        if now.finished >= 8:
            raise InterruptedError

    out = tmp_path / "out.npz"
    with api.load(bundle, engine="eager", device="cpu", batch_size=8) as b, pytest.raises(InterruptedError):
        b.boost_file(open_samples(samples), out, b.settings(UPDATE, early_stop=False, labels=first), on_progress=kill)
    command = ("boost", samples, "-o", out, "--bundle", bundle, "--engine", "eager", "-b", 8, *HOW, "--resume")
    refused = jboost_in_child(tmp_path, *command, *(() if first else ("--labels", "debiased")))
    assert refused.code == 2
    assert ("labels was 'debiased " if first else "labels was 'given, else predicted', is 'debiased ") in refused.said
    done = jboost_in_child(tmp_path, *command, *(("--labels", first) if first else ()))
    assert done.code == 0, done.said
    with api.load(bundle, engine="eager", device="cpu", batch_size=8) as b:
        y = by_hand["debiased"] if first else open_samples(samples).labels
        np.testing.assert_array_equal(images_of(out), b.boost(images, y, UPDATE, early_stop=False).images)


def test_shards_take_predictions_and_refuse_debiased_labels_with_a_remedy_that_works(
    bundle, samples, by_hand, images, tmp_path
) -> None:
    command = ("boost", samples, "--bundle", bundle, "--engine", "onnx", "-b", 8, *HOW)
    for more in (
        ("--shards", 2),
        ("--shard", "0/2"),
        ("--devices", "cpu,cpu"),
        ("--on", "ray"),
        (*_PRESET, "--shards", 2),
    ):
        labels = () if _PRESET[0] in more else ("--labels", "debiased")
        refused = jboost_in_child(tmp_path, *command, "-o", "refused", *more, *labels)
        assert refused.code == 2, refused.said
        assert (
            "boost all images as one npz, folder or tar, without --shard, --shards, --devices and --on, or take"
            in refused.said
        )
        assert not (tmp_path / "refused").exists()
    assert jboost_in_child(tmp_path, *command, "-o", "one.npz", "--labels", "debiased").code == 0
    done = jboost_in_child(
        tmp_path, *command, "-o", "parts", "--shards", 2, "--labels", "predicted", "--json", "parts.json"
    )
    assert done.code == 0, done.said
    summary = json.loads((tmp_path / "parts.json").read_text())
    assert (summary["labels"], summary["accuracy_before"]) == ("predicted", None)
    with api.load(bundle, engine="onnx", device="cpu", batch_size=8) as b:
        want = b.boost(images, by_hand["predicted"], UPDATE, early_stop=False).images
    parts = sorted((tmp_path / "parts").glob("*.npz"))
    np.testing.assert_array_equal(np.concatenate([images_of(path) for path in parts]), want)
    np.testing.assert_array_equal(
        np.concatenate([open_samples(path).labels for path in parts]), open_samples(samples).labels
    )
    refused = jboost_in_child(tmp_path, *command, "-o", "parts", "--shards", 2, "--resume")
    assert refused.code == 2
    assert "labels was 'predicted', is 'given, else predicted'" in refused.said


def test_streams_one_liners_and_presets(bundle, images, labels, by_hand) -> None:
    with api.load(bundle, engine="eager", device="cpu", batch_size=8) as b:
        want = b.boost(images, by_hand["predicted"], UPDATE, early_stop=False).images
        stream = b.boost_iter([(images, labels)], UPDATE, early_stop=False, labels="predicted")
        np.testing.assert_array_equal(np.stack(list(stream)), want)
        with pytest.raises(api.BadInputError, match="chunk 1 of the stream: it has no labels, but --labels given"):
            list(b.boost_iter([(images, labels), images], UPDATE, labels="given"))
        with pytest.raises(api.BadInputError, match=r"boost the images with jboost\.boost, or take"):
            b.boost_iter([images], UPDATE, labels="debiased")
        # A preset may ask for debiased labels; labels that are given win, and so do predictions.
        preset = replace(PRESETS["bigroc-sngan"], objective=None)
        for given, used in ((None, "debiased"), ("predicted", "predicted"), (labels, "given")):
            assert b.boost(images, given, UPDATE, preset=preset).summary.labels == used
        debiased = b.boost(images, by_hand["debiased"], UPDATE, early_stop=False).images
    options = {
        "bundle": bundle,
        "engine": "eager",
        "device": "cpu",
        "batch_size": 8,
        "update": UPDATE,
        "early_stop": False,
    }
    np.testing.assert_array_equal(api.boost(images, "debiased", **options), debiased)
    np.testing.assert_array_equal(
        np.stack(list(api.boost_iter([(images, labels)], labels="predicted", **options))), want
    )
    boost = api.diffusers.Boost(bundle, engine="eager", device="cpu", batch_size=8, update=UPDATE, early_stop=False)
    with boost:
        np.testing.assert_array_equal(boost(images, "debiased"), debiased)
