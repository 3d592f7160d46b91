"""The compile engine: packages compiled at export give the images that eager gives, and are refused where they do not belong."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import jboost
from jboost.engine.bundle import Bundle
from jboost.engine.compiled import CompiledRunner, artefact_name, machine_target
from jboost.engine.eager import EagerRunner
from jboost.export.bundle import export_bundle
from jboost.export.verify import verify_bundle

BATCH = 8


@pytest.fixture(scope="module")
def compiled(checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("compile") / "bundle"
    export_bundle(checkpoint, out, formats=("compile",), dtypes=("fp32", "bf16"), batch_size=BATCH)
    return out


@pytest.mark.parametrize(
    "update", [jboost.PGD(10, 0.1), jboost.PGD(4, 0.2, eps=0.3), jboost.SGLD(4, 0.005, noise=0.01)]
)
@pytest.mark.parametrize("count", [23, 8, 1])
def test_images_are_those_of_eager(compiled, images, labels, update, count) -> None:
    results = []
    for engine in ("eager", "compile"):
        with jboost.load(compiled, engine=engine, device="cpu") as booster:
            results.append(booster.boost(images[:count], labels[:count], update).images.astype(int))
    assert (results[0] == results[1]).mean() > 0.999
    assert np.abs(results[0] - results[1]).max() <= 1


def gradient(runner, images, labels) -> torch.Tensor:
    x = runner.put(images[:BATCH].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    return runner.gradient(x, runner.put(labels[:BATCH])).grad.flatten(1)


def test_bf16_points_the_same_way_and_falls_back_to_float32(compiled, images, labels) -> None:
    bundle = Bundle(compiled)
    with EagerRunner(bundle, objective="joint", l0=3.0, device="cpu") as runner:
        want = gradient(runner, images, labels)
    with CompiledRunner(bundle, objective="joint", l0=3.0, resolution=16, dtype="bf16") as runner:
        got = gradient(runner, images, labels)
        x = runner.put(images[:BATCH].transpose(0, 3, 1, 2).astype(np.float32) / 255)
        precise = runner.gradient(x, runner.put(labels[:BATCH]), precise=True).grad.flatten(1)
    assert torch.cosine_similarity(got, want).median() > 0.95  # an untrained network: a robust one does far better
    assert not torch.equal(got, want)
    torch.testing.assert_close(precise, want)


def test_auto_picks_the_package_and_says_why_not_otherwise(compiled, images, labels, caplog) -> None:
    with caplog.at_level(logging.INFO, "jboost"):
        with jboost.load(compiled) as booster:
            assert booster.boost(images, labels, jboost.PGD(1)).summary.engine == "compile"
        with jboost.load(compiled, batch_size=4) as booster:
            assert booster.boost(images, labels, jboost.PGD(1)).summary.engine == "eager"
    assert "engine compile" in caplog.text
    assert f"not compile: the package takes batches of {BATCH}, not 4" in caplog.text


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"objective": "logit"}, "--format compile --objective logit"),
        ({"dtype": "fp16"}, "--dtype fp16"),
        ({"l0": 1.0}, "--engine eager"),
        ({"device": "cuda"}, "--device cpu"),
    ],
)
def test_what_the_bundle_lacks_is_named(compiled, options, remedy) -> None:
    with pytest.raises(jboost.BadInputError, match=remedy) as e:
        CompiledRunner(Bundle(compiled), **{"objective": "joint", "l0": 3.0, "resolution": 16} | options)
    assert "\n" not in str(e.value)


def test_another_batch_size_is_refused_before_anything_runs(compiled, images, labels) -> None:
    with (
        jboost.load(compiled, engine="compile", batch_size=4) as booster,
        pytest.raises(jboost.BadInputError, match="-b 4"),
    ):
        booster.boost(images, labels)


def test_a_package_from_another_kind_of_machine_is_refused(compiled, tmp_path) -> None:
    copy = Path(shutil.copytree(compiled, tmp_path / "bundle"))
    config = Bundle(copy).config
    name = artefact_name("joint", "fp32", 16)
    assert config.artefacts[name].target == machine_target()
    foreign = replace(config.artefacts[name], target="cpu SVE256, torch 2.13.0")
    (copy / "config.json").write_text(replace(config, artefacts=config.artefacts | {name: foreign}).to_json())
    with pytest.raises(jboost.BadInputError, match=r"SVE256.*this machine is"):
        CompiledRunner(Bundle(copy), objective="joint", l0=3.0, resolution=16)
    assert config.artefacts[name].file not in verify_bundle(Bundle(copy))


def test_a_flipped_byte_is_refused(compiled, tmp_path) -> None:
    copy = Path(shutil.copytree(compiled, tmp_path / "bundle"))
    package = copy / Bundle(copy).config.artefacts[artefact_name("joint", "fp32", 16)].file
    content = package.read_bytes()
    package.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    with pytest.raises(jboost.BadInputError, match="SHA-256"):
        CompiledRunner(Bundle(copy), objective="joint", l0=3.0, resolution=16)


def test_figures_are_kept_and_repeated(compiled) -> None:
    figures = verify_bundle(Bundle(compiled))
    assert len(figures) == 3
    for artefact in Bundle(compiled).config.artefacts.values():
        if artefact.dtype == "fp32" and artefact.objective is not None:
            assert artefact.errors["grad_median"] < 1e-4
