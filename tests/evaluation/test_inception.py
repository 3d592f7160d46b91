"""FID's network: its shape, its loading, its outputs; test_originals.py compares its numbers with other programs'."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jboost.engine.errors import BadInputError
from jboost.evaluation.extractors.inception import Inception, load_inception, resize
from jboost.evaluation.extractors.open import open_extractor


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Random weights under the published names, with batch statistics that keep activations in range."""
    torch.manual_seed(0)
    network = Inception()
    for name, tensor in network.state_dict().items():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.1, 0.5)
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)  # the published file is in the older format
    return path


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 24, 3), dtype=np.uint8)


def test_parameters_are_those_of_inception_v3_with_1008_classes() -> None:
    network = Inception()
    # torchvision documents 23,834,568 for inception_v3 of 1,000 classes without its auxiliary head.
    assert sum(p.numel() for p in network.parameters()) == 23_834_568 + 8 * (2048 + 1)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert shapes["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert shapes["Mixed_5b.branch5x5_2.conv.weight"] == (64, 48, 5, 5)
    assert shapes["Mixed_6a.branch3x3.conv.weight"] == (384, 288, 3, 3)
    assert shapes["Mixed_6d.branch7x7dbl_4.conv.weight"] == (160, 160, 7, 1)
    assert shapes["Mixed_7a.branch7x7x3_2.conv.weight"] == (192, 192, 1, 7)
    assert shapes["Mixed_7c.branch3x3dbl_3b.bn.running_var"] == (384,)
    assert shapes["Mixed_7c.branch_pool.conv.weight"] == (192, 2048, 1, 1)
    assert shapes["fc.weight"] == (1008, 2048)


@pytest.mark.parametrize("size", [1, 7, 299, 400])
def test_resizing_takes_corners_as_tensorflow_1_does(size) -> None:
    x = torch.rand(1, 2, size, size + 1) * 255
    found = resize(x, 299).numpy()[0]
    image = x.numpy()[0].astype(np.float64)
    rng = np.random.default_rng(size)
    for row, column in rng.integers(0, 299, (50, 2)):
        v, u = row * size / 299, column * (size + 1) / 299  # no half pixels
        top, left = int(v + 1e-6), int(u + 1e-6)
        bottom, right = min(top + 1, size - 1), min(left + 1, size)
        dv, du = v - top, u - left
        expected = (image[:, top, left] * (1 - du) + image[:, top, right] * du) * (1 - dv) + (
            image[:, bottom, left] * (1 - du) + image[:, bottom, right] * du
        ) * dv
        np.testing.assert_allclose(found[:, row, column], expected, atol=0.02)


def test_outputs_and_what_the_result_says_of_unpublished_weights(weights, pictures) -> None:
    extractor = open_extractor(str(weights), "cpu")
    out = extractor(pictures)
    assert out.features.shape == (2, 2048)
    assert out.logits.shape == (2, 1008)
    assert out.spatial.shape == (2, 17 * 17 * 7)
    assert extractor.identity.kind == "inception"
    assert "not the published" in extractor.identity.remark
    network = load_inception(weights)
    expected = out.features @ network.fc.weight.numpy().T
    np.testing.assert_allclose(out.logits, expected, atol=1e-5 * np.abs(expected).max())
    grey = pictures[..., :1]
    np.testing.assert_allclose(extractor(grey).features, extractor(grey.repeat(3, 3)).features, rtol=1e-4, atol=1e-5)


def test_spatial_features_are_seven_channels_of_mixed_6_with_channels_last(weights, pictures) -> None:
    network = load_inception(weights)
    seen: list[torch.Tensor] = []
    network.get_submodule("Mixed_6d.branch1x1").register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.no_grad():
        out = network(torch.from_numpy(pictures).permute(0, 3, 1, 2).float())
    assert seen[0].shape == (2, 192, 17, 17)
    torch.testing.assert_close(out["spatial"].view(2, 17, 17, 7)[1, 3, 5], seen[0][1, :7, 3, 5])


def test_other_files_are_refused(weights, tmp_path) -> None:
    state = torch.load(weights, weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "fc.bias"}, tmp_path / "headless.pth")
    torch.save(state | {"fc.bias": torch.zeros(1000)}, tmp_path / "classes.pth")
    torch.save({"model": torch.nn.Linear(2, 2)}, tmp_path / "pickled.pth")
    (tmp_path / "text.pth").write_text("hello")
    for name, words in (
        ("headless", "another network"),
        ("classes", "fc.bias"),
        ("pickled", "plain tensors"),
        ("text", "plain tensors"),
    ):
        with pytest.raises(BadInputError, match=words):
            open_extractor(str(tmp_path / f"{name}.pth"), "cpu")
