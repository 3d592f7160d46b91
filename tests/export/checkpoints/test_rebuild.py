"""A bundle's network from its weights alone, as bundles that are not trusted run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from strangers import copied, reissue

import jboost
from jboost.engine.backends.compiled.packages import why_unusable
from jboost.engine.backends.program import load_program
from jboost.engine.backends.request import RunRequest
from jboost.engine.backends.trt.plans import artefact_name, plans_of
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError
from jboost.export.checkpoints.rebuild import rebuild
from jboost.export.compiled import first_use
from jboost.opening import open_bundle


def test_it_is_the_forward_program_to_the_bit(bundle) -> None:
    x = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            rebuild(Bundle(bundle))(x), load_program(bundle / "forward.pt2", "cpu")(x), rtol=0, atol=0
        )


def test_images_are_the_same_with_and_without_trust(bundle, tmp_path, images, labels) -> None:
    theirs = copied(bundle, tmp_path / "bundle")
    results = []
    for trust_code in (False, True):
        with jboost.load(theirs, engine="eager", device="cpu", trust_code=trust_code) as booster:
            assert booster.bundle.trusted == trust_code
            results.append(booster.boost(images, labels, jboost.PGD(3, 0.1)).images)
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.pop("network.fc.bias"), "does not hold"),
        (lambda t: t.update(extra=torch.zeros(1)), "does not hold"),
        (lambda t: t.update({"network.fc.bias": torch.zeros(6)}), "does not hold"),
        (lambda t: t.update({"network.fc.bias": torch.zeros(5).half()}), "does not hold"),
        (lambda t: t.update(mean=torch.zeros(1, 3, 1, 1)), "different normalisations"),
    ],
)
def test_weights_that_do_not_fit_are_refused(bundle, tmp_path, change, what) -> None:
    theirs = copied(bundle, tmp_path / "bundle")
    tensors = load_file(theirs / "model.safetensors")
    change(tensors)
    save_file(tensors, theirs / "model.safetensors")
    with pytest.raises(BadInputError, match=what):
        rebuild(Bundle(reissue(theirs)))


def test_an_unknown_architecture_is_named(bundle, tmp_path) -> None:
    opened = open_bundle(copied(bundle, tmp_path / "a", architecture="resnet1"))
    with pytest.raises(BadInputError, match="resnet1"):
        opened.rebuild(opened)
    assert open_bundle(copied(bundle, tmp_path / "b", architecture="os:system")).rebuild is None
    with pytest.raises(BadInputError, match="does not define"):
        rebuild(open_bundle(tmp_path / "b"))


def test_compile_compiles_afresh_under_a_key_of_its_own(bundle, tmp_path, monkeypatch) -> None:
    """What the author claims about files that nothing reads is no part of the key; what is read is."""
    keys = []

    def cached(key, make, *, say):
        keys.append(key)
        return tmp_path, {}

    monkeypatch.setattr(first_use, "cached", cached)
    request = RunRequest("joint", 3.0, 16, device="cpu", batch_size=4)

    def key_of(folder: Path) -> dict:
        keys.clear()
        first_use.compile_on_first_use(open_bundle(folder), request, say=print)
        return keys[0]

    ours = key_of(bundle)
    forward = Bundle(bundle).artefact("forward").sha256
    assert ours["forward"] == forward
    theirs = key_of(copied(bundle, tmp_path / "theirs"))
    assert forward not in theirs.values()
    assert key_of(copied(bundle, tmp_path / "again")) == theirs
    other = copied(bundle, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["network.fc.bias"] += 1
    save_file(tensors, other / "model.safetensors")
    assert key_of(reissue(other)) != theirs


def test_plans_of_a_stranger_are_refused(bundle, tmp_path) -> None:
    config = Bundle(bundle).config
    name = artefact_name("joint", "fp32", 16, "sm_86")
    plan = replace(config.artefacts["weights"], batch_size=4, resolution=16, objective="joint")
    theirs = open_bundle(copied(bundle, tmp_path / "a", artefacts=config.artefacts | {name: plan, f"{name}/key": plan}))
    with pytest.raises(BadInputError, match="jboost trust"):
        list(plans_of(theirs, "joint", "fp32", 16))


def test_every_name_that_is_not_known_as_data_is_code(bundle, tmp_path) -> None:
    """An author chooses the names: what a name is opened as decides, not the file's suffix."""
    config = Bundle(bundle).config
    weights = config.artefacts["weights"]
    names = ["compile/cpu/joint/fp32/16", "trt/joint/fp32/16/sm_86/key", "Forward", "x"]
    theirs = Bundle(copied(bundle, tmp_path / "a", artefacts=config.artefacts | dict.fromkeys(names, weights)))
    for name in [*names, "forward"]:
        with pytest.raises(BadInputError, match="jboost trust"):
            theirs.checked_path(name)
    for name in config.artefacts.keys() - {"forward"}:
        theirs.checked_path(name)
    assert why_unusable(theirs, RunRequest("logit", None, 16, device="cpu")) is not None
