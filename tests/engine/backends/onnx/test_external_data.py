"""A stranger's ONNX graph cannot name weights outside the bundle, so that it reads no file of the user's."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import pytest
from strangers import copied, reissue

import jboost


@pytest.mark.parametrize("place", ["../secret", "sub/../../secret", "absolute", "link"])
def test_weights_outside_the_bundle_are_refused(bundle, tmp_path, place) -> None:
    theirs = copied(bundle, tmp_path / "bundle")
    secret = tmp_path / "secret"
    shutil.copy(theirs / "gradient.joint.16.fp32.onnx.data", secret)  # bytes that would fit
    (theirs / "sub").mkdir()
    (theirs / "link").symlink_to(secret)
    for file in theirs.glob("*.onnx"):
        graph = onnx.load(file, load_external_data=False)
        for entry in (e for tensor in graph.graph.initializer for e in tensor.external_data if e.key == "location"):
            entry.value = str(secret) if place == "absolute" else place
        file.write_bytes(graph.SerializeToString())
    with (
        jboost.load(reissue(theirs), engine="onnx", device="cpu") as booster,
        pytest.raises(jboost.BadInputError, match="cannot run"),
    ):
        booster.boost(np.zeros((1, 16, 16, 3), np.uint8), np.zeros(1, int), jboost.PGD(1))
