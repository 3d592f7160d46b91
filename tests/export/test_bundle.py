"""The bundle: verified on export, refused when a byte of it changes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jboost.engine.backends.eager.runner import EagerRunner
from jboost.engine.backends.program import load_program
from jboost.engine.backends.request import RunRequest
from jboost.engine.bundle import Bundle
from jboost.engine.errors import BadInputError, FailureError
from jboost.engine.samples import open_samples
from jboost.export.bundle import export_bundle
from jboost.export.checkpoints.load import load_checkpoint
from jboost.export.forward import save_forward_program, verify_forward_program


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def test_the_forward_program_is_the_model_at_any_batch_size(bundle, checkpoint) -> None:
    model = load_checkpoint(checkpoint).model
    program = load_program(Bundle(bundle).checked_path("forward"), "cpu")
    for batch in (1, 2, 9):
        x = torch.rand(batch, 3, 16, 16)
        torch.testing.assert_close(program(x), model(x), rtol=1e-5, atol=1e-5)


def test_weights_file_holds_the_models_state(bundle, checkpoint) -> None:
    stored, state = load_file(bundle / "model.safetensors"), load_checkpoint(checkpoint).model.state_dict()
    assert set(stored) == set(state)
    for name in stored:
        torch.testing.assert_close(stored[name], state[name], rtol=0, atol=0)


def test_figures_of_the_verification_are_kept(bundle) -> None:
    errors = Bundle(bundle).artefact("forward").errors
    assert errors["eager_worst"] < 1e-3
    assert 0 < errors["grad_worst"] < 1e-2


def test_any_flipped_byte_is_refused(copy) -> None:
    for file in sorted(copy.iterdir()):
        whole = file.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 2):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(BadInputError):
                Bundle(copy).check()
        file.write_bytes(whole)
    Bundle(copy).check()


def test_a_changed_l0_is_noticed(copy) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"l0": 9.0}))
    with pytest.raises(BadInputError, match="--l0"):
        Bundle(copy)


def test_a_missing_file_and_a_foreign_folder_are_named(copy, tmp_path) -> None:
    (copy / "forward.pt2").unlink()
    with pytest.raises(BadInputError, match=r"forward\.pt2 is missing"):
        EagerRunner(Bundle(copy), RunRequest("bce", None, 16))
    with pytest.raises(BadInputError, match="jboost export"):
        Bundle(tmp_path)


class Sensitive(torch.nn.Module):
    """Computes something else once it has been traced."""

    def forward(self, x):
        factor = 1.0 if torch.compiler.is_exporting() else 2.0
        return factor * x.flatten(1)[:, :4]


def test_an_artefact_that_is_not_the_model_is_refused(tmp_path) -> None:
    model, path = Sensitive().eval(), tmp_path / "forward.pt2"
    save_forward_program(model, path, in_channels=3, resolutions=(8,))
    with pytest.raises(FailureError, match="does not match the model"):
        verify_forward_program(model, path, in_channels=3, resolutions=(8,), atol=1e-4, rtol=1e-4)


def test_export_replaces_a_bundle_and_leaves_other_folders_alone(checkpoint, copy, tmp_path) -> None:
    export_bundle(checkpoint, copy, resolutions=(16, 24), formats=())
    assert Bundle(copy).config.resolutions == (16, 24)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(BadInputError, match="left alone"):
        export_bundle(checkpoint, tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_l0_is_the_mean_realness_of_the_real_images(checkpoint, samples, images, labels, tmp_path) -> None:
    made = export_bundle(checkpoint, tmp_path / "b", real=samples, formats=())
    model = load_checkpoint(checkpoint).model.double()
    with torch.no_grad():
        f = model(torch.from_numpy(images.transpose(0, 3, 1, 2) / 255.0))
    f_c = f[torch.arange(len(labels)), torch.from_numpy(labels)]
    assert made.bundle.config.l0 == pytest.approx(float(-torch.log(1 - torch.sigmoid(f_c)).mean()), rel=1e-5)


def test_l0_needs_labels_and_the_right_size(checkpoint, images, tmp_path) -> None:
    np.savez(tmp_path / "real.npz", images)
    with pytest.raises(BadInputError, match="class numbers"):
        export_bundle(checkpoint, tmp_path / "b", real=tmp_path / "real.npz")
    np.savez(tmp_path / "real.npz", images[:, :8, :8], np.zeros(23, int))
    with pytest.raises(BadInputError, match="8x8"):
        export_bundle(checkpoint, tmp_path / "b", real=tmp_path / "real.npz")
    assert not (tmp_path / "b").exists()


def test_a_file_outside_the_bundle_is_not_read(bundle) -> None:
    b = Bundle(bundle)
    out = replace(b.config.artefacts["forward"], file="../../etc/passwd")
    text = replace(b.config, artefacts={"forward": out}).to_json()
    folder = bundle.parent / "outside"
    folder.mkdir()
    (folder / "config.json").write_text(text)
    with pytest.raises(BadInputError, match="outside"):
        Bundle(folder)


def test_real_samples_are_opened_before_the_checkpoint(tmp_path) -> None:
    (tmp_path / "damaged.pt").write_bytes(b"no checkpoint")  # reading it would fail, and a whole one takes long
    with pytest.raises(BadInputError, match=r"none\.npz"):
        export_bundle(tmp_path / "damaged.pt", tmp_path / "b", real=tmp_path / "none.npz")
    with pytest.raises(BadInputError):
        open_samples(tmp_path / "none.npz")
